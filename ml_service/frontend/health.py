"""Health: how the process that answers fares, over the last quarter of an hour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from ml_service.frontend import words
from ml_service.frontend.charts import LineChart, Point, extend
from ml_service.frontend.parts import card, figure, page_title
from ml_service.frontend.regions import Region, empty
from ml_service.frontend.visit import Visit

_EVERY_S = 5.0
_MIB = 1 << 20
Series = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Chart:
    """A chart: its lines by what they show, and how a value is told."""

    title: str
    hint: str
    lines: Mapping[str, str]
    unit: str = ""
    factor: float = 1.0
    digits: int = 1


CHARTS = (
    Chart("Requests", "finished, a second", {
        "all": "requests_per_second", "refused": "refused_per_second", "failed": "failed_per_second"}, "/s"),
    Chart("Tokens", "a second", {
        "generated": "generation_tokens_per_second", "read": "prompt_tokens_per_second"}, "/s"),
    Chart("Answer", "from arrival to the end", {
        "median": "latency_p50_s", "95 %": "latency_p95_s", "99 %": "latency_p99_s"}, "ms", 1000),
    Chart("First token", "from arrival", {
        "median": "first_token_p50_s", "95 %": "first_token_p95_s", "99 %": "first_token_p99_s"}, "ms", 1000),
    Chart("Next token", "between two of a request", {
        "median": "between_tokens_p50_s", "95 %": "between_tokens_p95_s", "99 %": "between_tokens_p99_s"},
        "ms", 1000, 2),
    Chart("Queue", "requests", {"running": "running", "waiting": "waiting"}),
    Chart("Cache", "in use, and shared by prompts", {
        "in use": "cache_share", "shared": "prefix_hit_share"}, "%", 100),
    Chart("Memory", "resident", {"memory": "memory_bytes"}, "MiB", 1 / _MIB),
    Chart("Processor", "cores in use", {"cores": "processor_cores"}, "", 1, 2),
)  # fmt: skip


def build(visit: Visit) -> None:
    """The page."""
    with page_title("Health", "The process that answers here, over the last 15 minutes."):
        _link("API", "/docs", "api")
        _link("Metrics", "/metrics", "data_object")
        if visit.service.grafana:
            _link("Grafana", visit.service.grafana, "monitoring")
    board = _Board()
    Region(visit, "/health/recent", board.build, board.update, every_s=_EVERY_S, height="860px")


def _link(name: str, address: str, icon: str) -> None:
    link = ui.element("a").props(f'href="{address}" target="_blank" rel="noopener"').classes("outward")
    with link:
        ui.icon(icon).props('aria-hidden="true"')
        ui.label(name)


class _Board:
    def __init__(self) -> None:
        self._figures: dict[str, TextElement] = {}
        self._charts: list[LineChart] = []
        self._drawn_until = 0.0
        """By the time of the last point; drawing goes on from there, so that little is sent."""

    def build(self, data: dict[str, Any]) -> None:
        series: Series = data["series"]
        if not series["time"]:
            empty("Nothing measured yet", "The first figures come within ten seconds.", "monitor_heart")
            return
        with ui.element("div").classes("stack"):
            with ui.element("div").classes("figures"):
                self._figures = {name: figure(name, tell(series)) for name, tell in FIGURES.items()}
            with ui.element("div").classes("grid"):
                self._charts = [_made(chart, series) for chart in CHARTS]
        self._drawn_until = series["time"][-1] or 0.0

    def update(self, data: dict[str, Any]) -> None:
        series: Series = data["series"]
        if not self._charts:
            ui.context.slot.parent.clear()
            self.build(data)
            return
        for name, number in self._figures.items():
            number.set_text(FIGURES[name](series))
        new = sum(time is not None and time > self._drawn_until for time in series["time"])
        if not new:
            return
        self._drawn_until = series["time"][-1] or 0.0
        latest = {name: column[-new:] for name, column in series.items()}
        drawn = zip(CHARTS, self._charts, strict=True)
        extend({line_chart: list(lines_of(chart, latest).values()) for chart, line_chart in drawn}, len(series["time"]))


def _made(chart: Chart, series: Series) -> LineChart:
    with card(chart.title, f"{chart.hint}, {chart.unit}" if chart.unit not in ("", "/s") else chart.hint):
        return LineChart(
            lines_of(chart, series), x="time", unit=chart.unit, digits=chart.digits, from_zero=True, height="200px",
            name=f"{chart.title}: {chart.hint}",
        )  # fmt: skip


def lines_of(chart: Chart, series: Series) -> dict[str, list[Point]]:
    """As they are drawn: milliseconds and values."""
    times = [round(time * 1000) for time in series["time"] if time is not None]
    return {
        name: [(at, _scaled(value, chart.factor)) for at, value in zip(times, series[column], strict=True)]
        for name, column in chart.lines.items()
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def _now(series: Series, name: str) -> float | None:
    return series[name][-1]


FIGURES: Mapping[str, Callable[[Series], str]] = {
    "Requests": lambda series: f"{words.count(_now(series, 'requests_per_second'))}/s",
    "Tokens": lambda series: f"{words.count(_now(series, 'generation_tokens_per_second'))}/s",
    "Answer, 95 %": lambda series: words.duration(_now(series, "latency_p95_s")),
    "First token, 95 %": lambda series: words.duration(_now(series, "first_token_p95_s")),
    "Waiting": lambda series: words.number(_now(series, "waiting")),
    "Cache in use": lambda series: f"{words.number((_now(series, 'cache_share') or 0) * 100)} %",
    "Memory": lambda series: words.size(_now(series, "memory_bytes")),
}
