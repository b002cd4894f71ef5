"""Charts of lines and of bars in the theme's colours, drawn in the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

Point = Sequence[float | None]
"""x and y; y None makes a gap."""
SERIES_COLOURS = 6
"""So many colours in the style sheet, `--series-1` and on."""


def colour(name: str) -> str:
    """JavaScript that looks a colour of the style sheet up; for options whose name begins with a colon."""
    return f"mlPage.colour('{name}')"


class LineChart:
    """Lines over time or over steps; `show` changes what is drawn without drawing anew.

    `x` is `time` (milliseconds since 1970), `value` or `log`; `unit` stands behind the values in the tooltip. Stacked
    lines have the same x; a stepped one stays where it is until its next point.
    """

    def __init__(
        self,
        series: Mapping[str, Sequence[Point]],
        *,
        x: str = "value",
        x_name: str = "",
        unit: str = "",
        height: str = "220px",
        is_filled: bool = False,
        is_stacked: bool = False,
        is_stepped: bool = False,
        from_zero: bool = False,
        digits: int = 2,
        name: str = "Chart",
    ) -> None:
        self._is_filled, self._is_stacked, self._is_stepped = is_filled or is_stacked, is_stacked, is_stepped
        axis, line = _axis()
        options = {
            "animation": False,
            "backgroundColor": "transparent",
            "grid": {"left": 8, "right": 16, "top": 34, "bottom": 24 if x_name else 6, "containLabel": True},
            "legend": {"show": True, "top": 0, "left": 0, "icon": "roundRect", "itemWidth": 12, "itemHeight": 4,
                       "type": "scroll", "textStyle": {":color": colour("ink"), "fontSize": 12}},
            "tooltip": _tooltip(_formatter(digits, unit)),
            "xAxis": {"type": x, "name": x_name, "nameLocation": "middle", "nameGap": 24,
                      "axisLabel": axis | {"hideOverlap": True},
                      "nameTextStyle": axis, "axisLine": line, "splitLine": {"show": False},
                      "scale": True, "minInterval": 1 if x == "value" else None},
            "yAxis": {"type": "value", "scale": not from_zero, "axisLabel": axis, "splitLine": line,
                      "min": 0 if from_zero else None},
            "series": self._series(series),
        }  # fmt: skip
        self.chart = _drawn(options, height, name)

    def show(self, series: Mapping[str, Sequence[Point]], unit: str | None = None, digits: int = 2) -> None:
        """Draw these from now on; in another unit, where one is given."""
        self.chart.options["series"] = self._series(series)
        if unit is not None:
            self.chart.options["tooltip"][":valueFormatter"] = _formatter(digits, unit)
        self.chart.update()

    def _series(self, series: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
        return [self._line(number, name, points) for number, (name, points) in enumerate(series.items())]

    def _line(self, number: int, name: str, points: Sequence[Point]) -> dict[str, Any]:
        shade = colour(f"series-{number % SERIES_COLOURS + 1}")
        line: dict[str, Any] = {
            "name": name, "type": "line", "data": points, "showSymbol": len(points) < 3, "symbolSize": 5,
            "lineStyle": {"width": 2, ":color": shade}, "itemStyle": {":color": shade}, "connectNulls": False,
            "emphasis": {"disabled": True},
        }  # fmt: skip
        if self._is_filled:
            line["areaStyle"] = {":color": shade, "opacity": 0.12}
        return line | ({"stack": "all"} if self._is_stacked else {}) | ({"step": "end"} if self._is_stepped else {})


def extend(news: Mapping[LineChart, Sequence[Sequence[Point]]], most: int) -> None:
    """Let charts go on, with new points of each of their lines, and keep so many of a line; one message for all."""
    by_element = {chart.chart.id: points for chart, points in news.items()}
    ui.run_javascript(f"mlPage.extend({json.dumps(by_element)}, {most})")


class BarChart:
    """How often something is so: a bar for each name; `show` changes what is drawn."""

    def __init__(self, bars: Mapping[str, float], *, height: str = "220px", name: str = "Chart") -> None:
        axis, line = _axis()
        options = {
            "animation": False,
            "backgroundColor": "transparent",
            "grid": {"left": 8, "right": 16, "top": 12, "bottom": 6, "containLabel": True},
            "tooltip": _tooltip(_formatter(0, "")) | {"axisPointer": {"type": "shadow"}},
            "xAxis": {"type": "category", "axisLabel": axis | {"hideOverlap": True}, "axisLine": line,
                      "axisTick": {"show": False}},
            "yAxis": {"type": "value", "axisLabel": axis, "splitLine": line, "minInterval": 1},
        }  # fmt: skip
        self._put(options, bars)
        self.chart = _drawn(options, height, name)

    def show(self, bars: Mapping[str, float]) -> None:
        """Draw these from now on."""
        self._put(self.chart.options, bars)
        self.chart.update()

    @staticmethod
    def _put(options: dict[str, Any], bars: Mapping[str, float]) -> None:
        options["xAxis"]["data"] = list(bars)
        options["series"] = [{
            "type": "bar", "data": list(bars.values()), "barCategoryGap": "12%", "barMaxWidth": 90,
            "itemStyle": {":color": colour("series-1"), "borderRadius": [2, 2, 0, 0]}, "emphasis": {"disabled": True},
        }]  # fmt: skip


def _axis() -> tuple[dict[str, Any], dict[str, Any]]:
    """How labels of an axis look, and lines."""
    return {":color": colour("muted"), "fontSize": 11}, {"lineStyle": {":color": colour("line")}}


def _tooltip(formatter: str) -> dict[str, Any]:
    return {
        "trigger": "axis", ":backgroundColor": colour("card"), ":borderColor": colour("line"),
        "textStyle": {":color": colour("ink"), "fontSize": 12}, ":valueFormatter": formatter,
    }  # fmt: skip


def _drawn(options: dict[str, Any], height: str, name: str) -> ui.echart:
    chart = ui.echart(options).classes("chart").style(f"height: {height}")
    return chart.props(f'role="img" aria-label="{name}"')


def _formatter(digits: int, unit: str) -> str:
    behind = f" + '\\u00a0{unit}'" if unit else ""
    options = f"{{maximumFractionDigits: {digits}}}"
    return f"(value) => value == null ? '—' : Number(value).toLocaleString('en', {options}){behind}"
