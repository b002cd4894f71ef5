"""How long to train: a budget in seconds, tokens or steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of the three, and perhaps a hard end."""

    seconds: float | None = None
    tokens: int | None = None
    steps: int | None = None
    limit_seconds: float | None = None
    """It ends then whatever is left of the budget."""

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.tokens, self.steps) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError("a budget is exactly one of seconds, tokens or steps, and positive")

    @property
    def clock_seconds(self) -> float | None:
        """When it ends by the clock; None for never."""
        limits = [value for value in (self.seconds, self.limit_seconds) if value is not None]
        return min(limits, default=None)
