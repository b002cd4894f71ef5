"""What is found of a row, and what rows come to: figures with their intervals."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lib.bootstrap import Floats, percentile_interval, resampled_sums
from ml_service.common.errors import BadRequest
from ml_service.pipeline.judging.tables import Row

Cell = str | int | float


class Metric(BaseModel):
    """A figure of all rows."""

    model_config = ConfigDict(frozen=True)

    value: float | None = Field(description="None where it is not finite.")
    low: float | None = Field(None, description="Where the 95 % bootstrap interval over the rows begins.")
    high: float | None = Field(None, description="Where it ends.")
    count: int = Field(description="Of the rows that it is made of.")


@dataclass(frozen=True)
class Judged:
    """What a task found of a row."""

    cells: Mapping[str, Cell]
    """Its columns in the table of results."""
    sums: tuple[float, ...]
    """What is added up over rows."""
    badness: float
    """Rows with more of it are the worse ones."""
    tokens: int = 0


class Task(Protocol):
    """One way to judge rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table of results."""

    async def judge(self, row: Row) -> Judged:
        """Raises ServiceError in words where it cannot be judged."""

    def add(self, judged: Judged) -> None:
        """Count a row in."""

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Of all rows so far."""


class Sums:
    """What is added up over rows, and the figures that are functions of the sums."""

    def __init__(self, statistics: Callable[[Floats], Mapping[str, Floats]]) -> None:
        """`statistics` takes sums, shape (resamples, columns), and gives each figure, shape (resamples,)."""
        self._statistics, self._values, self._count = statistics, array("d"), 0

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        self._values.extend(judged.sums)
        self._count += 1

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Weighted by the corpus: sums over all rows before anything is divided."""
        found = _figures(np.frombuffer(self._values).reshape(self._count, -1), self._statistics)
        return {name: figure for name, figure in found.items() if wanted(name)}


def cell_of(row: Row, column: str, what: str = "text") -> str:
    """Raises BadRequest where it is empty."""
    if (cell := row.cells.get(column)) is None:
        raise BadRequest(f"no {what} in column {column!r}")
    return cell


def _figures(rows: Floats, statistics: Callable[[Floats], Mapping[str, Floats]]) -> dict[str, Metric]:
    """All with intervals from the same resamples."""
    values = statistics(rows.sum(axis=0, keepdims=True))
    spread = statistics(resampled_sums(rows))
    return {
        name: metric(float(value[0]), percentile_interval(spread[name]), len(rows)) for name, value in values.items()
    }


def metric(value: float, interval: tuple[float, float], count: int) -> Metric:
    """Rounded to what is worth reading."""
    low, high = map(_rounded, interval)
    return Metric(value=_rounded(value), low=low, high=high, count=count)


def shares(over: Floats, under: Floats) -> Floats:
    """The one divided by the other; not a number where there is nothing to divide by."""
    return np.asarray(np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0))


def excerpt(text: str, most: int = 300) -> str:
    """The beginning of a text, as a report shows it."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _rounded(value: float) -> float | None:
    return float(f"{value:.8g}") if math.isfinite(value) else None
