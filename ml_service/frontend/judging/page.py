"""Evaluate: a model is judged on somebody's own rows; what was found of them, and of those before."""

from __future__ import annotations

from nicegui import ui

from ml_service.frontend.judging.form import QuestionForm
from ml_service.frontend.judging.history import History
from ml_service.frontend.judging.result import Result
from ml_service.frontend.parts import button, page_title
from ml_service.frontend.visit import Visit


def build(visit: Visit) -> None:
    """The page; `?id=7` shows what an evaluation found."""
    asked = visit.query.get("id", "")
    if asked.isdigit():
        with page_title(f"Evaluation {int(asked)}"):
            button("Judge something else", icon="add").props('href="/ui/evaluate"')
    else:
        page_title("Evaluate", "How well does a model do on rows of your own?")
    with ui.element("div").classes("stack"):
        if asked.isdigit():
            Result(visit, int(asked), is_known="known" in visit.query)
        else:
            QuestionForm(visit)
        History(visit)
