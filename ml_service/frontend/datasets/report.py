"""What became of an upload: what was kept, what was left out and why, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.parts import figure, text
from ml_service.frontend.tables import Column, Table

_COLUMNS = (
    Column("file", "File", classes="wordy"),
    Column("row", "Row", is_right=True),
    Column("reason", "Reason", classes="wordy"),
)


def show_report(report: Mapping[str, Any]) -> None:
    """The report of a batch, as `POST /add_data` and `GET /datasets/{version}` tell it."""
    with ui.element("div").classes("figures"):
        figure("Accepted", words.number(report["accepted"]), words.size(report["bytes"]))
        figure("Duplicate", words.number(report["duplicate"]), "known, or twice")
        figure("Near duplicate", words.number(report["near_duplicate"]), "almost the same text")
        figure("Rejected", words.number(report["rejected"]), f"read in {words.duration(report['seconds'])}")
    if not report["rejected"]:
        return
    text("h3", "Rejected, and why")
    with ui.element("ul").classes("reasons"):
        for reason, count in report["rejected_by_reason"].items():
            with ui.element("li"):
                text("b", words.number(count))
                text("span", reason)
    rows = [
        {"file": each["file"], "row": each["row"] or "the whole file", "reason": each["reason"]}
        for each in report["rejected_rows"]
    ]
    Table("Rejected rows", _COLUMNS, rows, a_page=10, is_tight=True)
    if report["rejected"] > len(rows):
        text("p", f"The first {len(rows)} of {words.number(report['rejected'])}.", "hint")
