"""Metrics with their intervals: what they are, on which scale they stand, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.parts import text
from ml_service.frontend.tables import scrolled

_LOWER_IS_BETTER = {
    "avg_loss", "perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity", "cer", "wer",
}  # fmt: skip
_ENDS = {"accuracy": 1.0, "f1": 1.0, "mcc": 1.0, "exact_match": 1.0, "token_accuracy": 1.0, "rougeL": 1.0,
         "chrf": 100.0, "bleu": 100.0}  # fmt: skip
_MAIN = ("accuracy", "exact_match", "bits_per_byte", "cer", "avg_loss")
_ROOM = 1.15


def main_metric(metrics: Mapping[str, Any]) -> str:
    """The one that is told where there is room for one, with its name."""
    name = next((name for name in _MAIN if metrics.get(name) is not None), next(iter(metrics), None))
    return f"{name} {words.score(metrics[name])}" if name is not None else words.NOTHING


def scale(name: str, value: float, high: float | None) -> tuple[float, float]:
    """From where to where a metric is drawn: all that it can be, or from zero on to a bit behind it."""
    highest = max(value, high if high is not None else value)
    if name in _ENDS:
        return (-1.0 if name == "mcc" else 0.0), _ENDS[name]
    if name in ("cer", "wer") and highest <= 1:
        return 0.0, 1.0
    return 0.0, highest * _ROOM or 1.0


def metric_table(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each metric: its value, and a picture of its 95 % interval."""
    with scrolled("Metrics"), ui.element("table").classes("metrics"):
        with ui.element("thead"), ui.element("tr"):
            for heading in ("Metric", "Value", "95 % interval", "", "Rows", "Better"):
                text("th", heading).props('scope="col"')
        with ui.element("tbody"):
            for name, metric in metrics.items():
                with ui.element("tr"):
                    _line(name, metric)


def _line(name: str, metric: Mapping[str, Any]) -> None:
    value, low, high = metric["value"], metric["low"], metric["high"]
    text("th", name).props('scope="row"')
    text("td", words.score(value), "number")
    has_interval = low is not None and high is not None
    text("td", f"{words.score(low)} to {words.score(high)}" if has_interval else words.NOTHING, "number")
    with ui.element("td").classes("metric-picture"):
        if value is not None:
            _picture(name, value, low, high)
    text("td", words.number(metric["count"]), "number")
    text("td", "lower" if name in _LOWER_IS_BETTER else "higher", "hint")


def _picture(name: str, value: float, low: float | None, high: float | None) -> None:
    begin, end = scale(name, value, high)

    def place(x: float) -> float:
        return round(min(max((x - begin) / (end - begin), 0.0), 1.0) * 100, 2)

    told = f"{words.score(value)} on a scale from {begin:g} to {words.score(end)}"
    with ui.element("div").classes("interval").props(f'role="img" aria-label="{told}"'):
        ui.element("div").classes("interval-bar").style(f"width: {place(value)}%")
        if low is not None and high is not None:
            ui.element("div").classes("whisker").style(f"left: {place(low)}%; width: {place(high) - place(low):.2f}%")
        ui.tooltip(told)
