"""Feedback: what people thought of answers, and what these should have been; kept until it becomes data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, func, or_, select, update

from ml_service.common.errors import BadRequest
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.tables import Feedback, LoggedRequest

Verdict = Literal["accepted", "corrected", "rejected"]
FEEDBACK = "feedback"
"""The name of the data that it becomes, and of the job that does it."""


@dataclass(frozen=True)
class Lesson:
    """A document that feedback makes: the prompt, and what should have followed."""

    feedback_id: int
    text: str


@dataclass(frozen=True)
class Standing:
    """How much feedback there is."""

    kept: int
    lessons: int
    """That can become data and are not yet."""


class FeedbackStore:
    """All feedback of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, request_id: str, accepted: bool, correction: str | None, prompt: str | None, actor: str
    ) -> tuple[Feedback, Verdict]:
        """Keep a verdict. The prompt is taken from the request log where that has it and it is not given.

        Raises BadRequest where the correction is blank.
        """
        if correction is not None and not correction.strip():
            raise BadRequest("correction: it is blank; leave it out where there is none", [("correction", "blank")])
        with self._database.writing() as session:
            if prompt is None:
                logged = select(LoggedRequest.prompt).where(LoggedRequest.request_id == request_id)
                prompt = session.scalar(logged.order_by(LoggedRequest.id.desc()).limit(1))
            feedback = Feedback(
                request_id=request_id, accepted=accepted, prompt=prompt, correction=correction, actor=actor,
                created=now(),
            )  # fmt: skip
            session.add(feedback)
            session.flush()
            verdict: Verdict = "corrected" if correction is not None else "accepted" if accepted else "rejected"
            told = {"request": request_id, "verdict": verdict}
            audit.record(self._database, session, actor, "feedback", f"feedback {feedback.id}", {}, told)
        return feedback, verdict

    def lessons(self, limit: int = 100_000) -> list[Lesson]:
        """What can become data and is not yet: corrections, and accepted answers whose text is in the request log."""
        wanted = _lessons(Feedback, LoggedRequest.answer).order_by(Feedback.id).limit(limit)
        with self._database.reading() as session:
            rows = session.execute(wanted).all()
        return [
            Lesson(feedback.id, (feedback.prompt or "") + (feedback.correction or answer or ""))
            for feedback, answer in rows
        ]

    def standing(self) -> Standing:
        """How much there is."""
        with self._database.reading() as session:
            kept = session.scalar(select(func.count(Feedback.id))) or 0
            return Standing(kept, session.scalar(_lessons(func.count(Feedback.id))) or 0)

    def became(self, lessons: Sequence[Lesson], batch_id: int, actor: str) -> None:
        """These are data now."""
        ids = [lesson.feedback_id for lesson in lessons]
        with self._database.writing() as session:
            for start in range(0, len(ids), 500):
                piece = ids[start : start + 500]
                session.execute(update(Feedback).where(Feedback.id.in_(piece)).values(batch_id=batch_id))
            audit.record(
                self._database, session, actor, "feedback export", f"batch {batch_id}", {}, {"lessons": len(ids)}
            )


def _lessons(*columns: Any) -> Select[Any]:
    answers = (
        select(LoggedRequest.request_id, func.max(LoggedRequest.id).label("id"))
        .where(LoggedRequest.answer.is_not(None))
        .group_by(LoggedRequest.request_id)
        .subquery()
    )
    return (
        select(*columns)
        .select_from(Feedback)
        .outerjoin(answers, answers.c.request_id == Feedback.request_id)
        .outerjoin(LoggedRequest, LoggedRequest.id == answers.c.id)
        .where(Feedback.batch_id.is_(None))
        .where(or_(Feedback.correction.is_not(None), Feedback.accepted & LoggedRequest.answer.is_not(None)))
    )
