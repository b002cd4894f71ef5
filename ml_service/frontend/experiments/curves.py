"""Charts of curves that grow while a training goes on; only what is new is sent to the browser."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nicegui import ui
from nicegui.elements.echart import EChart

from ml_service.frontend.parts import text

assert EChart.component is not None, "the library that draws in the browser comes with its element"
Columns = Mapping[str, list[Any]]
"""`step`, `tokens`, `seconds` and `value`, of equal lengths."""
AXES = {"step": "Steps", "tokens": "Tokens", "seconds": "Time"}
_COLUMNS = ("step", "tokens", "seconds", "value")
_DIGITS = 6


class Curves(ui.element, component="curves.js"):
    """Lines by their names."""

    def __init__(self, name: str, height: str = "220px", labels: Sequence[str] = ()) -> None:
        super().__init__()
        self.style(f"height: {height}")
        self.props["name"] = name
        self.props["labels"] = list(labels)  # their order decides the colours, whichever comes first
        self._last: dict[str, int] = {}

    def show(self, lines: Mapping[str, Columns]) -> None:
        """These as a whole; what the browser has of them already is not sent again."""
        last = {name: columns["step"][-1] for name, columns in lines.items() if columns["step"]}
        anew = [name for name, step in last.items() if step < self._last.get(name, -1)]
        for name in anew:
            del self._last[name]
        self.add(lines, anew)

    def add(self, lines: Mapping[str, Columns], anew: Sequence[str] = ()) -> None:
        """Points behind those that are there; `anew` are lines of which nothing is kept."""
        new = {name: after(columns, self._last.get(name, -1)) for name, columns in lines.items()}
        new = {name: columns for name, columns in new.items() if columns["step"]}
        if not new:
            return
        if self._last:
            self.run_method("add", _rounded(new), list(anew))
        else:  # as a string: the page watches what stands in a property, number by number
            self.props["lines"] = json.dumps(_rounded(new))
        self._last |= {name: columns["step"][-1] for name, columns in new.items()}

    def look(self, **view: Any) -> None:
        """`x` is a key of AXES; `isLog` and `isSmooth`."""
        self.run_method("look", view)


class Toolbar:
    """Over what curves are drawn, and how: for all of them at once."""

    def __init__(self) -> None:
        self._all: list[Curves] = []
        self._smooth: list[Curves] = []
        with ui.element("div").classes("line curve-tools"):
            with ui.element("div").classes("line").props('role="group" aria-label="Drawn over"'):
                text("span", "Over", "hint")
                ui.toggle(AXES, value="step", on_change=lambda event: self._look(self._all, x=event.value)).props(
                    "dense no-caps unelevated toggle-color=primary"
                ).classes("segments")
            ui.switch("Logarithmic", on_change=lambda event: self._look(self._all, isLog=event.value)).props("dense")
            ui.switch("Smooth", on_change=lambda event: self._look(self._smooth, isSmooth=event.value)).props("dense")

    def rule(self, curves: Curves, *, can_be_smooth: bool = False) -> Curves:
        """These are drawn so, too."""
        self._all.append(curves)
        if can_be_smooth:
            self._smooth.append(curves)
        return curves

    def _look(self, charts: Iterable[Curves], **view: Any) -> None:
        for each in charts:
            each.look(**view)


def after(columns: Columns, step: int) -> dict[str, list[Any]]:
    """The points behind a step."""
    first = next((at for at, each in enumerate(columns["step"]) if each > step), len(columns["step"]))
    return {name: columns[name][first:] for name in _COLUMNS}


def rounded(value: float | None) -> float | None:
    """As many digits as a chart can show: they are sent to every browser."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def _rounded(lines: Mapping[str, Columns]) -> dict[str, dict[str, list[Any]]]:
    return {
        name: {
            column: [rounded(each) for each in columns[column]] if column in ("value", "seconds") else columns[column]
            for column in _COLUMNS
        }
        for name, columns in lines.items()
    }
