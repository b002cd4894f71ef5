"""Line charts in the theme's colours, drawn in the browser."""

from __future__ import annotations

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

    `x` is `time` (milliseconds since 1970), `value` or `log`; `unit` stands behind the values in the tooltip.
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
        from_zero: bool = False,
        digits: int = 2,
        name: str = "Chart",
    ) -> None:
        self._is_filled = is_filled
        axis = {":color": colour("muted"), "fontSize": 11}
        line = {"lineStyle": {":color": colour("line")}}
        options = {
            "animation": False,
            "backgroundColor": "transparent",
            "grid": {"left": 8, "right": 16, "top": 34, "bottom": 24 if x_name else 6, "containLabel": True},
            "legend": {"show": True, "top": 0, "left": 0, "icon": "roundRect", "itemWidth": 12, "itemHeight": 4,
                       "type": "scroll", "textStyle": {":color": colour("ink"), "fontSize": 12}},
            "tooltip": {"trigger": "axis", ":backgroundColor": colour("card"), ":borderColor": colour("line"),
                        "textStyle": {":color": colour("ink"), "fontSize": 12},
                        ":valueFormatter": _formatter(digits, unit)},
            "xAxis": {"type": x, "name": x_name, "nameLocation": "middle", "nameGap": 24, "axisLabel": axis,
                      "nameTextStyle": axis, "axisLine": line, "splitLine": {"show": False},
                      "scale": True, "minInterval": 1 if x == "value" else None},
            "yAxis": {"type": "value", "scale": not from_zero, "axisLabel": axis, "splitLine": line,
                      "min": 0 if from_zero else None},
            "series": self._series(series),
        }  # fmt: skip
        self.chart = ui.echart(options).classes("chart").style(f"height: {height}")
        self.chart.props(f'role="img" aria-label="{name}"')

    def show(self, series: Mapping[str, Sequence[Point]]) -> None:
        """Draw these from now on."""
        self.chart.options["series"] = self._series(series)
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
        return line


def _formatter(digits: int, unit: str) -> str:
    behind = f" + '\\u00a0{unit}'" if unit else ""
    options = f"{{maximumFractionDigits: {digits}}}"
    return f"(value) => value == null ? '—' : Number(value).toLocaleString('en', {options}){behind}"
