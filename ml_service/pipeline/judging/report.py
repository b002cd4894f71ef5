"""The account of an evaluation as it comes: the table of rows, the worst ones, the errors, the figures at the end."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Callable, Sequence
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

from ml_service.common.errors import BadRequest, ServiceError
from ml_service.common.evaluation_options import Columns
from ml_service.pipeline.judging.judged import Judged, Metric, Task, excerpt
from ml_service.pipeline.judging.tables import Row

WORST = 10
_TOLD_ERRORS = 20
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class WorstRow(BaseModel):
    """A row on which the model did badly."""

    model_config = ConfigDict(frozen=True)

    row: int = Field(description="From 1 on.")
    text: str = Field(description="What was asked, its beginning.")
    found: dict[str, str | int | float] = Field(description="What was found of it.")


class FailedRow(BaseModel):
    """A row that could not be judged, and why; the others could."""

    model_config = ConfigDict(frozen=True)

    row: int
    error: str


class Report(BaseModel):
    """What an evaluation found."""

    model_config = ConfigDict(frozen=True)

    columns: Columns = Field(description="Those that were judged.")
    count: int = Field(description="Rows that were judged.")
    failed: int = Field(description="Rows that could not be.")
    tokens: int = Field(description="That were scored or made.")
    metrics: dict[str, Metric]
    worst: list[WorstRow] = Field(description="The worst first.")
    errors: list[FailedRow] = Field(description="The first of the failed.")
    duration_ms: float


class Account:
    """Takes rows in their order."""

    def __init__(self, tasks: Sequence[Task], columns: Columns, rows: IO[str]) -> None:
        self._tasks, self._columns = tasks, columns
        names = dict.fromkeys(name for task in tasks for name in task.columns)
        self._table = csv.DictWriter(rows, ["row", "asked", *names, "error"])
        self._table.writeheader()
        self._worst: list[tuple[float, int, WorstRow]] = []
        self._errors: list[FailedRow] = []
        self._count = self._failed = self._tokens = 0

    def add(self, row: Row, found: list[Judged] | ServiceError) -> None:
        """Count a row in: what each task found of it, or why it could not be judged."""
        if isinstance(found, ServiceError):
            self._failed += 1
            self._write({"row": row.number, "error": str(found)})
            if len(self._errors) < _TOLD_ERRORS:
                self._errors.append(FailedRow(row=row.number, error=str(found)))
            return
        for task, judged in zip(self._tasks, found, strict=True):
            task.add(judged)
        self._count += 1
        self._tokens += sum(judged.tokens for judged in found)
        cells = {name: cell for judged in found for name, cell in judged.cells.items()}
        asked = row.cells.get(self._columns.text or self._columns.prompt or self._columns.image or "", "")
        self._write({"row": row.number, "asked": asked} | cells)
        self._remember(found[-1].badness, row.number, asked, cells)

    def report(self, wanted: Callable[[str], bool], duration_ms: float) -> Report:
        """Raises BadRequest where no row could be judged."""
        if not self._count:
            why = f"the first: {self._errors[0].error}" if self._errors else "there is none"
            raise BadRequest(f"no row could be judged; {why}", [("file", "no row could be judged")])
        metrics: dict[str, Metric] = {}
        for task in self._tasks:
            metrics |= task.metrics(wanted)
        return Report(
            columns=self._columns, count=self._count, failed=self._failed, tokens=self._tokens, metrics=metrics,
            worst=[worst for _, _, worst in sorted(self._worst, key=lambda each: each[:2], reverse=True)],
            errors=self._errors, duration_ms=duration_ms,
        )  # fmt: skip

    def _write(self, cells: dict[str, Any]) -> None:
        self._table.writerow({name: _harmless(cell) if isinstance(cell, str) else cell for name, cell in cells.items()})

    def _remember(self, badness: float, number: int, asked: str, cells: dict[str, Any]) -> None:
        if len(self._worst) == WORST and (badness, -number) <= self._worst[0][:2]:
            return
        found = {name: excerpt(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}
        entry = (badness, -number, WorstRow(row=number, text=excerpt(asked), found=found))
        if len(self._worst) < WORST:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heapreplace(self._worst, entry)


def _harmless(cell: str) -> str:
    """A table program takes such cells for formulas; with an apostrophe before them it shows them."""
    return f"'{cell}" if cell.startswith(_FORMULAS) else cell
