"""How long to train: a budget in seconds, tokens or steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of the three."""

    seconds: float | None = None
    tokens: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.tokens, self.steps) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError("a budget is exactly one of seconds, tokens or steps, and positive")
