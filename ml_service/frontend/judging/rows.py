"""The table of an evaluation's rows as histograms: how often a value comes, column by column."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_BYTES = 4 << 20
"""So much of a table is read for a picture of it."""
_TEXTS = {"row", "asked", "target", "prediction", "read", "error"}
_FEW, _BARS = 12, 24
_TAIL = 0.99


@dataclass(frozen=True)
class Distributions:
    """Column → what stands below a bar → how many rows."""

    columns: Mapping[str, Mapping[str, int]]
    rows: int
    is_whole: bool


def distributions(table: bytes) -> Distributions:
    """Of a table, or of its beginning where it is as long as what is read at most."""
    is_whole = len(table) < MOST_BYTES
    if not is_whole:
        table = table[: table.rfind(b"\n") + 1]
    rows = [
        row for row in csv.DictReader(io.StringIO(table.decode("utf-8", "replace"), newline="")) if not row["error"]
    ]
    if not is_whole:  # its last row may be cut
        rows = rows[:-1]
    names = [name for name in (rows[0] if rows else {}) if name not in _TEXTS]
    found = {name: _bars([row[name] for row in rows if row[name]]) for name in names}
    return Distributions({name: bars for name, bars in found.items() if bars}, len(rows), is_whole)


def _bars(cells: Sequence[str]) -> dict[str, int]:
    """Of numbers, or of a few different words; nothing where there are too many of these."""
    try:
        values = [value for value in map(float, cells) if math.isfinite(value)]
    except ValueError:
        counted = Counter(cells)
        return dict(counted.most_common()) if len(counted) <= _BARS else {}
    return histogram(values)


def histogram(values: Sequence[float]) -> dict[str, int]:
    """How many lie where, in steps of a round width; what lies far out is in one last bar."""
    counted = Counter(values)
    if len(counted) == 1 or (len(counted) <= _FEW and all(value.is_integer() for value in counted)):
        return {f"{value:g}": counted[value] for value in sorted(counted)}
    ordered = sorted(values)
    low, high, end = ordered[0], ordered[int(_TAIL * (len(ordered) - 1))], ordered[-1]
    has_tail = end - low > 2 * (high - low) > 0
    width = _round_width(((high if has_tail else end) - low) / (_BARS - 4))
    first = math.floor(low / width)
    last = math.floor((high if has_tail else end) / width)
    places = Counter(min(math.floor(value / width), last + 1) for value in values)
    bars = {f"{n * width:g} to {(n + 1) * width:g}": places[n] for n in range(first, last + 1)}
    return bars | ({f"{(last + 1) * width:g} and more": places[last + 1]} if places[last + 1] else {})


def _round_width(width: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= width * 0.999)
