"""Feedback becomes data: corrections and accepted answers, as one upload."""

from __future__ import annotations

from pathlib import Path

from ml_service.data.database import Database
from ml_service.data.datasets import AddedBatch
from ml_service.data.feedback import FEEDBACK, FeedbackStore
from ml_service.pipeline.adding import add_texts


def export_lessons(database: Database, store: Path, actor: str, name: str = FEEDBACK) -> AddedBatch | None:
    """Add all feedback that is not data yet; None where there is none.

    A kill in the middle loses nothing and adds nothing twice: the same texts again are the same batch.
    """
    feedback = FeedbackStore(database)
    lessons = feedback.lessons()
    if not lessons:
        return None
    texts = [lesson.text for lesson in lessons]
    added = add_texts(database, store, texts, name, tags=(FEEDBACK,), actor=actor)
    feedback.became(lessons, added.batch.id, actor)
    return added
