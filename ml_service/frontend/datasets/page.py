"""Data: the versions of the data set, how it has grown, what is added to it and what became of that."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.api import ApiError
from ml_service.frontend.charts import LineChart
from ml_service.frontend.datasets.growth import By, Of, growth, scaled
from ml_service.frontend.datasets.upload import AddData
from ml_service.frontend.datasets.versions import show_version, version_rows, version_table
from ml_service.frontend.parts import ask, button, card, figure, page_title, text
from ml_service.frontend.regions import Region, empty, tell_error
from ml_service.frontend.tables import Table
from ml_service.frontend.visit import Visit

_PATH, _EVERY_S = "/datasets?limit=200", 10.0
_FEEDBACK_EVERY_S = 15.0


async def build(visit: Visit) -> None:
    """The page; `?version=3` opens a version."""
    page_title("Data", "What models learn from. It grows in versions that never change.")
    with ui.element("div").classes("stack"):
        AddData(visit)
        with ui.element("div").classes("grid two"):
            with card("Growth"):
                growth_chart = _Growth()
                Region(visit, _PATH, growth_chart.build, growth_chart.update, every_s=_EVERY_S, height="272px")
            with card("Feedback", "what people said of answers"):
                Region(
                    visit, "/feedback", lambda told: _feedback(visit, told), every_s=_FEEDBACK_EVERY_S, height="10rem"
                )
        with card("Versions"):
            versions = _Versions(visit)
            Region(visit, _PATH, versions.build, versions.update, every_s=_EVERY_S, height="10rem")
    if (version := visit.query.get("version", "")).isdigit():
        await show_version(visit, int(version))


class _Versions:
    """The table, or what to do where there is none."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._table: Table | None = None

    def build(self, told: Mapping[str, Any]) -> None:
        if told["datasets"]:
            self._table = version_table(self._visit, told["datasets"])
        else:
            hint = "Drop files above, or paste a text: the first version comes of it."
            self._nothing = empty("No data yet", hint, "dataset")

    def update(self, told: Mapping[str, Any]) -> None:
        if self._table is not None:
            self._table.show(version_rows(told["datasets"]))
        else:
            self._nothing.delete()
            self.build(told)


class _Growth:
    """Records or bytes over time, by split or by source."""

    def __init__(self) -> None:
        self._by: By = "splits"
        self._of: Of = "records"
        self._datasets: list[Mapping[str, Any]] = []
        self._chart: LineChart | None = None

    def build(self, told: Mapping[str, Any]) -> None:
        self._datasets = told["datasets"]
        if not self._datasets:
            self._nothing = empty("Nothing has grown yet", "Each version will be a step here.", "show_chart")
            return
        with ui.element("div").classes("line"):
            _switch({"records": "Records", "bytes": "Bytes"}, "What is counted", self._count)
            _switch({"splits": "by split", "sources": "by source"}, "How it is divided", self._divide)
            self._sum = text("span", "", "hint")
        lines, unit = self._lines()
        self._chart = LineChart(
            lines, x="time", unit=unit, is_stacked=True, is_stepped=True, from_zero=True, name="Growth of the data set"
        )

    def update(self, told: Mapping[str, Any]) -> None:
        if self._chart is None:
            self._nothing.delete()
            self.build(told)
        else:
            self._datasets = told["datasets"]
            self._chart.show(*self._lines())

    def _lines(self) -> tuple[dict[str, Any], str]:
        latest = self._datasets[0]
        self._sum.set_text(f"now {words.number(latest['records'])} records, {words.size(latest['bytes'])}")
        return scaled(growth(self._datasets, self._by, self._of, datetime.now(UTC)), self._of)

    def _count(self, of: Of) -> None:
        self._of = of
        self._redraw()

    def _divide(self, by: By) -> None:
        self._by = by
        self._redraw()

    def _redraw(self) -> None:
        if self._chart is not None:
            self._chart.show(*self._lines())


def _switch(options: Mapping[str, str], name: str, on_choice: Any) -> None:
    made = ui.toggle(dict(options), value=next(iter(options)), on_change=lambda event: on_choice(event.value))
    made.classes("switch").props(f'unelevated no-caps dense aria-label="{name}"')


def _feedback(visit: Visit, told: Mapping[str, Any]) -> None:
    with ui.element("div").classes("fields"):
        kept = f"of {words.number(told['kept'])} verdicts that are kept"
        figure("Can become data", words.number(told["lessons"]), kept)
        text("p", "Corrections and accepted answers become texts to learn from, as a version of their own.", "hint")
        with ui.element("div").classes("line"):
            made = button("Make it data", lambda: _ask_export(visit, told["lessons"], made), icon="school")
            made.set_enabled(told["lessons"] > 0)


def _ask_export(visit: Visit, lessons: int, made: ui.button) -> None:
    async def export() -> None:
        made.disable()
        try:
            exported = await visit.api.send("POST", "/feedback/export")
        except ApiError as error:
            made.enable()
            tell_error(error, "The feedback did not become data")
            return
        ui.notify(f"{words.number(exported['lessons'])} texts become data; the version is here in a moment.")
        visit.refresh("/feedback")
        visit.refresh("/datasets")

    ask(
        "Make feedback data",
        f"{words.number(lessons)} texts become a new version of the data set.",
        "Make it data",
        export,
    )
