"""An experiment's curves as a page shows them: training loss, new and known held-out text, how the training fares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ml_service.frontend.experiments.curves import Columns, Curves, Toolbar
from ml_service.frontend.experiments.facts import NEW, validated
from ml_service.frontend.parts import text

Series = Mapping[str, Columns]
LOSS, NEW_TEXT, KNOWN_TEXT = "train_loss", "new", "known"


@dataclass(frozen=True)
class Chart:
    """A place for some of the curves."""

    key: str
    title: str
    hint: str = ""
    is_small: bool = False


CHARTS = (
    Chart(LOSS, "Training loss", "nats per token"),
    Chart(NEW_TEXT, "Held out: new text", "bits per byte"),
    Chart(KNOWN_TEXT, "Held out: known text", "bits per byte"),
    Chart("learning_rate", "Learning rate", is_small=True),
    Chart("tokens_per_second", "Tokens per second", is_small=True),
    Chart("gradient_norm", "Gradient norm", is_small=True),
)
_LABELS = {LOSS: "training loss", "learning_rate": "learning rate", "tokens_per_second": "tokens per second",
           "gradient_norm": "gradient norm"}  # fmt: skip


class LearningCurves:
    """All charts of one experiment."""

    def __init__(self) -> None:
        self._charts: dict[str, Curves] = {}
        toolbar = Toolbar()
        for is_small in (False, True):
            with ui.element("div").classes("charts small" if is_small else "charts"):
                for chart in (chart for chart in CHARTS if chart.is_small is is_small):
                    curves = framed(chart.title, chart.hint, "150px" if is_small else "230px")
                    self._charts[chart.key] = toolbar.rule(curves, can_be_smooth=chart.key == LOSS)

    def show(self, series: Series) -> None:
        """The curves as they are known now."""
        for key, lines in placed(series).items():
            self._charts[key].show(lines)

    def add(self, series: Series) -> None:
        """What is new of them."""
        for key, lines in placed(series).items():
            self._charts[key].add(lines)


def framed(title: str, hint: str, height: str, labels: Sequence[str] = ()) -> Curves:
    """A chart with its name above."""
    with ui.element("figure").classes("chart-box"):
        with ui.element("figcaption").classes("card-head"):
            text("h3", title)
            if hint:
                text("span", hint, "hint")
        return Curves(f"{title}, {hint}" if hint else title, height, labels)


def placed(series: Series) -> dict[str, dict[str, Any]]:
    """Chart → label → curve."""
    charts: dict[str, dict[str, Any]] = {}
    for key, columns in series.items():
        source = validated(key)
        if source is not None:
            chart, label = (NEW_TEXT, "new text") if source == NEW else (KNOWN_TEXT, source)
        elif key in _LABELS:
            chart, label = key, _LABELS[key]
        else:
            continue
        charts.setdefault(chart, {})[label] = columns
    return charts
