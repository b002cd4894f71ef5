"""Numbers, sizes and times as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import humanize

NOTHING = "—"
_LARGE = 1e7


def number(value: float | None, digits: int = 0) -> str:
    """With separators; a dash for none, and for what is no number."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.{digits}f}"


def score(value: object) -> str:
    """A quality number with as many digits as tell something."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return NOTHING if value is None else str(value)
    return f"{value:.2e}" if _LARGE <= abs(value) < math.inf else number(value, 3 if abs(value) < 100 else 1)


def size(count: float | None) -> str:
    """Bytes, as KiB and so on."""
    return NOTHING if count is None else humanize.naturalsize(count, binary=True, format="%.1f")


def count(value: float | None) -> str:
    """12.3k, 4.5M: where the place is small."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """950 ms, 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def moment(text: str | None) -> datetime | None:
    """From ISO 8601; in UTC where it says no zone."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def ago(text: str | None) -> str:
    """How long a moment lies back: `3 minutes ago`."""
    time = moment(text)
    return NOTHING if time is None else humanize.naturaltime(datetime.now(UTC) - time)


def clock(text: str | None) -> str:
    """The moment itself, in UTC."""
    time = moment(text)
    return NOTHING if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
