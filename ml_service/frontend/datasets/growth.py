"""How the data set has grown: its versions as lines over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from ml_service.frontend.charts import SERIES_COLOURS, Point
from ml_service.frontend.words import moment

By = Literal["splits", "sources"]
Of = Literal["records", "bytes"]
_SHORTEST_MS, _BEFORE = 60_000.0, 0.03
"""So much time is shown at least; and before the first version, of all that is shown, so that it is a step, too."""
_OTHERS = "others"
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))


def growth(datasets: Sequence[Mapping[str, Any]], by: By, of: Of, now: datetime) -> dict[str, list[Point]]:
    """Split or source → milliseconds since 1970 and how much there was; from nothing up to now.

    `datasets` are versions as the service tells of them, newest first. Sources beyond the largest few are one.
    """
    versions = list(reversed(datasets))
    if not versions:
        return {}
    amounts = [_named({name: amount[of] for name, amount in version[by].items()}, versions, by) for version in versions]
    times = [moment(version["created"]) for version in versions]
    points = [time.timestamp() * 1000 for time in times if time is not None]
    until = max(now.timestamp() * 1000, points[-1], points[0] + _SHORTEST_MS)
    xs = [points[0] - (until - points[0]) * _BEFORE, *points, until]
    names = sorted({name for amount in amounts for name in amount}, key=lambda name: -amounts[-1].get(name, 0))
    return {
        name: list(zip(xs, [0.0, *(float(amount.get(name, 0)) for amount in (*amounts, amounts[-1]))], strict=True))
        for name in names
    }


def scaled(lines: Mapping[str, Sequence[Point]], of: Of) -> tuple[dict[str, list[Point]], str]:
    """The same in a unit that gives numbers one can read, and the unit."""
    highest = max((y or 0 for points in lines.values() for _, y in points), default=0)
    size, unit = next(((s, u) for s, u in _UNITS if highest >= s), (1, "bytes")) if of == "bytes" else (1, "")
    return {name: [(x, (y or 0) / size) for x, y in points] for name, points in lines.items()}, unit


def _named(amounts: Mapping[str, int], versions: Sequence[Mapping[str, Any]], by: By) -> dict[str, int]:
    latest = versions[-1][by]
    if len(latest) <= SERIES_COLOURS:
        return dict(amounts)
    shown = set(sorted(latest, key=lambda name: -latest[name]["bytes"])[: SERIES_COLOURS - 1])
    found = {name: amount for name, amount in amounts.items() if name in shown}
    return found | {_OTHERS: sum(amount for name, amount in amounts.items() if name not in shown)}
