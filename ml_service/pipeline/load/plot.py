"""Measurements as a picture: throughput over concurrency, how long people wait, tokens a second over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_service.pipeline.load.outcomes import Measurement, first_tokens_s, percentile, summarise, tokens_over_time

_INK, _GREY, _PALE, _RED = "#24292f", "#6e7781", "#e7ebef", "#cf222e"
_MOST_BINS, _LEAST_BIN_S = 60, 0.25
"""A quarter of a second holds enough tokens to be a rate."""
_POINTS = 400
"""Of a distribution's curve; more cannot be seen."""
_LOG_FROM = 12.0
"""From so large a ratio of the slowest to the fastest on, the axis of times is logarithmic."""
_WAITS: Sequence[tuple[str, Callable[[Measurement], list[float]]]] = (
    ("until the first token", lambda m: first_tokens_s(m.answered)),
    ("between two tokens", lambda m: [gap for outcome in m.answered for gap in outcome.gaps_s()]),
    ("end to end", lambda m: [outcome.end_to_end_s for outcome in m.answered]),
)


@dataclass(frozen=True)
class Caption:
    """What a picture says in words."""

    title: str
    subtitle: str
    footnote: str


def draw_measurements(measurements: Sequence[Measurement], caption: Caption, path: Path) -> None:
    """Draw all measurements of one target into one PNG, a colour a load."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(_STYLE):
        waits = [(name, of) for name, of in _WAITS if any(of(measurement) for measurement in measurements)]
        columns = [*(["throughput"] if len(measurements) > 1 else []), *(name for name, _ in waits)] or ["throughput"]
        figure, axes = pyplot.subplot_mosaic(
            [columns, ["over time"] * len(columns)],
            figsize=(max(4.2 * len(columns), 7.5), 7.4), dpi=110, height_ratios=(1.25, 1),
        )  # fmt: skip
        colours = _colours(len(measurements))
        if "throughput" in axes:
            _draw_throughput(axes["throughput"], measurements, colours)
        for name, of in waits:
            _draw_wait(axes[name], name, [of(measurement) for measurement in measurements], colours)
        _draw_over_time(axes["over time"], measurements, colours)
        _label(figure, measurements, colours, caption)
        figure.savefig(path, format="png")
        pyplot.close(figure)


def _draw_throughput(axes: Any, measurements: Sequence[Measurement], colours: Sequence[Any]) -> None:
    rates = [summarise(measurement).tokens_per_second for measurement in measurements]
    places = range(len(rates))
    axes.plot(places, rates, color=_PALE, linewidth=2, zorder=1)
    axes.scatter(places, rates, c=list(colours), s=60, zorder=2)
    for place, rate, colour in zip(places, rates, colours, strict=True):
        axes.annotate(
            f"{rate:,.0f}", (place, rate), xytext=(0, 9), textcoords="offset points", ha="center",
            color=colour, weight="bold",
        )  # fmt: skip
    axes.set_xticks(places, [str(measurement.load) for measurement in measurements])
    axes.set_xlim(-0.4, len(rates) - 0.6)
    axes.set_ylim(0, max(*rates, 1e-9) * 1.18)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("requests at a time")
    axes.set_title("new tokens a second")


def _draw_wait(axes: Any, name: str, waits_s: Sequence[Sequence[float]], colours: Sequence[Any]) -> None:
    """The share that waited no longer; a dot at the median and at the 99th percentile."""
    sorted_ms = [sorted(value * 1e3 for value in values) for values in waits_s]
    shares = [number / _POINTS for number in range(_POINTS + 1)]
    for values, colour in zip(sorted_ms, colours, strict=True):
        if values:
            axes.plot([percentile(values, share) for share in shares], shares, color=colour, linewidth=2)
            _mark(axes, [(percentile(values, share), share) for share in (0.5, 0.99)], colour)
    _scale_times(axes, [values for values in sorted_ms if values])
    axes.set_yticks((0, 0.25, 0.5, 0.75, 0.99), ("0 %", "25 %", "50 %", "75 %", "99 %"))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("milliseconds, or less")
    axes.set_title(name)


def _mark(axes: Any, points: Sequence[tuple[float, float]], colour: Any) -> None:
    from matplotlib.patheffects import withStroke

    halo = withStroke(linewidth=2.5, foreground="white")
    for milliseconds, share in points:
        axes.plot(milliseconds, share, marker="o", color=colour, markersize=5)
        label = f"{milliseconds:.2g}" if milliseconds < 10 else f"{milliseconds:,.0f}"
        axes.annotate(
            label, (milliseconds, share), xytext=(6, -11),
            textcoords="offset points", color=colour, size=8.5, weight="bold", path_effects=[halo],
        )  # fmt: skip


def _scale_times(axes: Any, sorted_ms: Sequence[Sequence[float]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    slowest = max(percentile(values, 0.99) for values in sorted_ms)
    # Tokens that came together lie a microsecond apart: a decade below the fastest median is enough of an axis.
    fastest = max(min(values[0] for values in sorted_ms), min(percentile(values, 0.5) for values in sorted_ms) / 10)
    if fastest > 0 and slowest / fastest > _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(fastest / 1.1, slowest * 2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if slowest / fastest > 100 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, slowest * 1.15 or 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _draw_over_time(axes: Any, measurements: Sequence[Measurement], colours: Sequence[Any]) -> None:
    for measurement, colour in zip(measurements, colours, strict=True):
        bins = max(1, min(_MOST_BINS, int(measurement.seconds / _LEAST_BIN_S)))
        rates = tokens_over_time(measurement.answered, measurement.seconds, bins)
        edges = [measurement.seconds * number / bins for number in range(bins + 1)]
        axes.stairs(rates, edges, color=colour, linewidth=1.8)
        if len(measurements) == 1:
            axes.stairs(rates, edges, color=colour, alpha=0.12, fill=True)
    axes.set_xlim(0, max(measurement.seconds for measurement in measurements) or 1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("seconds since the first request")
    axes.set_title("new tokens a second, over time")


def _label(figure: Any, measurements: Sequence[Measurement], colours: Sequence[Any], caption: Caption) -> None:
    from matplotlib.lines import Line2D

    figure.tight_layout(rect=(0, 0.025, 1, 0.92), h_pad=2.0)
    figure.text(0.012, 0.985, caption.title, weight="bold", size=13, va="top")
    figure.text(0.012, 0.943, caption.subtitle, color=_GREY, va="top")
    figure.text(0.012, 0.012, caption.footnote, color=_GREY, size=8.5)
    if failed := sum(summarise(measurement).failed for measurement in measurements):
        figure.text(0.988, 0.012, f"{failed:,} requests failed", color=_RED, weight="bold", ha="right")
    if len(measurements) > 1:
        lines = [Line2D([], [], color=colour, linewidth=3) for colour in colours]
        names = [f"{measurement.load} at a time" for measurement in measurements]
        figure.legend(lines, names, loc="upper right", ncols=len(names), bbox_to_anchor=(0.995, 0.995))


def _colours(count: int) -> list[Any]:
    """One colour, or a ladder of them: more at a time is darker."""
    from matplotlib import colormaps

    if count == 1:
        return ["#1f6feb"]
    return [colormaps["viridis_r"](0.25 + 0.65 * number / (count - 1)) for number in range(count)]


_STYLE = {
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _GREY,
    "axes.edgecolor": _PALE,
    "axes.grid": True,
    "grid.color": _PALE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.frameon": False,
}
