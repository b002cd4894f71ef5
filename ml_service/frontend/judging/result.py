"""What an evaluation found: progress while it runs, then figures, a histogram of its rows, the worst, the failed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.api import ApiError
from ml_service.frontend.charts import BarChart
from ml_service.frontend.judging.metrics import metric_table
from ml_service.frontend.judging.rows import MOST_BYTES, Distributions, distributions
from ml_service.frontend.judging.worst import worst_rows
from ml_service.frontend.parts import ask, badge, button, card, figure, notice, pairs, text
from ml_service.frontend.regions import Region, empty, failed, loading, tell_error
from ml_service.frontend.tables import Column, Table
from ml_service.frontend.visit import Visit

OPEN = ("queued", "running")
STATES = {"succeeded": "good", "failed": "bad", "running": "busy", "queued": "busy"}
_OPEN_EVERY_S, _OVER_EVERY_S = 1.0, 3600.0
_KNOWN_AFTER = 10
"""Rows; what the first ones took says little of the others."""
_FIRST = ("text_bits_per_byte", "cer", "margin_nats")
_FAILED = (Column("row", "Row", is_right=True), Column("error", "Why", classes="wordy"))


class Result:
    """Follows an evaluation to its end, and shows it."""

    def __init__(self, visit: Visit, evaluation_id: int, is_known: bool) -> None:
        self._visit, self._id, self._is_known = visit, evaluation_id, is_known
        self._progress: _Progress | None = None
        Region(
            visit, f"/evaluations/{evaluation_id}", self._build, self._update, every_s=_pace, height="20rem",
            missing=self._missing,
        )  # fmt: skip

    def _missing(self) -> None:
        with card():
            empty(f"There is no evaluation {self._id}", "Look below for those that there are.", "search_off")

    def _build(self, told: Mapping[str, Any]) -> None:
        self._place = ui.element("div").classes("stack")
        with self._place:
            self._show(told)

    def _update(self, told: Mapping[str, Any]) -> None:
        if self._progress is not None and told["state"] in OPEN:
            self._progress.update(told)
            return
        self._place.clear()
        with self._place:
            self._show(told)

    def _show(self, told: Mapping[str, Any]) -> None:
        self._progress = None
        if self._is_known:
            notice("This very question had been put before: this is its answer, nothing was judged anew.")
        with card(told["data"]):
            self._head(told)
            if told["state"] in OPEN:
                self._progress = _Progress(self._visit, told)
            elif told["error"]:
                notice(told["error"][:1].upper() + told["error"][1:], "bad")
            elif told["state"] == "cancelled":
                notice("It was cancelled; nothing of it is kept. The same question can be put again.")
        if told["report"] is not None:
            self._report(told, told["report"])
        elif told["metrics"]:
            with card("Metrics", "of a stage of the training"):
                pairs({name: words.score(value) for name, value in told["metrics"].items()})

    def _head(self, told: Mapping[str, Any]) -> None:
        with ui.element("div").classes("line"):
            badge(told["state"], STATES.get(told["state"], ""))
            if (experiment_id := told["experiment_id"]) is not None:
                text("a", f"experiment {experiment_id}", "linked").props(f'href="/ui/experiments/{experiment_id}"')
            text("span", f"asked {words.clock(told['created'])[:16]} UTC by {told['actor']}", "hint")
            if told["rows"] is not None:
                made = button("Download the rows", icon="download")
                made.props(f'href="/ui/rows/{self._id}.csv" download="evaluation-{self._id}.csv"').classes("to-end")

    def _report(self, told: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        with ui.element("div").classes("figures"):
            figure("Rows judged", words.number(report["count"]))
            figure("Could not be judged", words.number(report["failed"]))
            figure("Tokens", words.count(report["tokens"]), "scored or made")
            figure("Time", words.duration(report["duration_ms"] / 1000))
            for role, name in report["columns"].items():
                if name is not None:
                    figure(f"{role.capitalize()} column", name)
        with card("Metrics", "each with the interval in which it would lie, 95 times of 100, on other such rows"):
            metric_table(report["metrics"])
        if told["rows"] is not None:
            with card("How the rows differ"):
                Histogram(self._visit, self._id)
        with card("The worst rows", "the worst first"):
            worst_rows(report["worst"], report["columns"])
        if report["errors"]:
            with card("Rows that could not be judged", f"{words.number(report['failed'])}; the others were"):
                Table("Rows that could not be judged", _FAILED, report["errors"], a_page=10, is_tight=True)


class _Progress:
    """How far it is, and an end to it."""

    def __init__(self, visit: Visit, told: Mapping[str, Any]) -> None:
        self._visit, self._id = visit, told["id"]
        with ui.element("div").classes("fields").props('role="status"'):
            with ui.element("div").classes("bar big"):
                self._bar = ui.element("div")
            with ui.element("div").classes("line"):
                self._words = text("span", "", "hint")
                self._cancel = button("Cancel", self._ask, icon="stop").classes("to-end")
        self.update(told)

    def update(self, told: Mapping[str, Any]) -> None:
        """It has gone on."""
        share, said = progress_words(told)
        self._words.set_text(said)
        self._bar.style(f"width: {share * 100:.1f}%")

    def _ask(self) -> None:
        ask("Cancel the evaluation", "It ends now, and nothing of it is kept.", "Cancel it", self._end, is_grave=True)

    async def _end(self) -> None:
        self._cancel.disable()
        try:
            await self._visit.api.send("POST", f"/evaluations/{self._id}/cancel")
        except ApiError as error:
            self._cancel.enable()
            tell_error(error, "It was not cancelled")
        self._visit.refresh("/evaluations")


class Histogram:
    """How often a value comes, of a column that is chosen; the table of rows is read once."""

    def __init__(self, visit: Visit, evaluation_id: int) -> None:
        self._visit, self._path = visit, f"/evaluations/{evaluation_id}/rows.csv"
        with ui.element("div").classes("histogram") as self._place:
            loading(4)
        ui.timer(0.0, self._read, once=True)

    async def _read(self) -> None:
        try:
            table = await self._visit.api.beginning(self._path, MOST_BYTES)
        except ApiError as error:
            self._place.clear()
            with self._place:
                failed(error)
            return
        found = await asyncio.to_thread(distributions, table)
        if not self._place.is_deleted:
            self._place.clear()
            with self._place:
                self._draw(found)

    def _draw(self, found: Distributions) -> None:
        if not found.columns:
            empty("Nothing to draw", "No column of the table has numbers.", "bar_chart")
            return
        first = next((name for name in _FIRST if name in found.columns), next(iter(found.columns)))
        with ui.element("div").classes("line"):
            chosen = ui.toggle(list(found.columns), value=first, on_change=lambda event: show(event.value))
            chosen.classes("switch many").props('unelevated no-caps dense aria-label="Column"')
            rows = words.number(found.rows)
            said = f"all {rows} rows" if found.is_whole else f"the first {rows} rows; the download has all"
            text("span", said, "hint")
        chart = BarChart(found.columns[first], name="Histogram")

        def show(column: str) -> None:
            chart.show(found.columns[column])


def progress_words(told: Mapping[str, Any]) -> tuple[float, str]:
    """How much of it is done, and how that is said."""
    progress = told["progress"]
    if told["state"] == "queued":
        return 0.0, "It waits for its turn."
    if not progress.get("total"):
        return 0.0, "The model is being opened."
    done, total = progress["done"], progress["total"]
    is_known = progress.get("eta_s") and done >= _KNOWN_AFTER
    left = f", about {words.duration(progress['eta_s'])} left" if is_known else ""
    return done / total, f"{words.number(done)} of {words.number(total)} rows{left}"


def _pace(told: Mapping[str, Any]) -> float:
    return _OPEN_EVERY_S if told["state"] in OPEN else _OVER_EVERY_S
