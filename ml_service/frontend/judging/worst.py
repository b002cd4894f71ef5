"""Rows on which a model did worst: what was asked, what was found, with every space and line end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.parts import badge, text

_ASKED = {"text": "Text", "prompt": "Prompt", "image": "Image"}
_TEXTS = ("target", "prediction", "read")
_LINES, _LETTERS = 6, 240


def worst_rows(worst: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None]) -> None:
    """As the report of an evaluation has them."""
    asked = next((label for role, label in _ASKED.items() if columns.get(role) is not None), "Asked")
    with ui.element("ol").classes("worst"):
        for each in worst:
            with ui.element("li"):
                _row(each, asked)


def shortened(whole: str) -> str:
    """Its first lines; the same where there are no more."""
    return "\n".join(whole.split("\n")[:_LINES])[:_LETTERS]


def _row(row: Mapping[str, Any], asked: str) -> None:
    found = row["found"]
    with ui.element("div").classes("line"):
        text("h3", f"Row {words.number(row['row'])}")
        for name, value in found.items():
            if name not in _TEXTS:
                badge(f"{name} {words.number(value) if isinstance(value, int) else words.score(value)}")
    with ui.element("div").classes("worst-texts"):
        for name, value in {asked: row["text"], **{name: found[name] for name in _TEXTS if name in found}}.items():
            with ui.element("div").classes("worst-text"):
                text("div", name.capitalize(), "hint")
                _text(str(value))


def _text(whole: str) -> None:
    short = shortened(whole)
    shown = text("pre", short)
    if not whole:
        shown.set_text("(nothing)")
        shown.classes("dim")
    if short == whole:
        return

    def show_all() -> None:
        shown.set_text(whole)
        more.delete()

    more = ui.button("More", on_click=show_all).props("flat dense no-caps").classes("more")
