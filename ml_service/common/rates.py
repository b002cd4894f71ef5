"""How often somebody may ask: `600/minute`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_WRITTEN = re.compile(rf"([1-9]\d{{0,8}}) ?/ ?({'|'.join(_SECONDS)})")


@dataclass(frozen=True)
class Rate:
    """So many requests in so many seconds."""

    requests: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError where it is not written so."""
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no rate: write NUMBER/second, /minute, /hour or /day, such as 600/minute")
        return cls(int(found[1]), _SECONDS[found[2]])

    def __str__(self) -> str:
        """As it is written."""
        unit = next(name for name, seconds in _SECONDS.items() if seconds == self.seconds)
        return f"{self.requests}/{unit}"
