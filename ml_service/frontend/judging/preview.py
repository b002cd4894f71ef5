"""How a file that is to be judged begins: columns and first rows, read as the service reads them, and a guess."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from lib.row_files import BrokenRow, json_lines, table_rows
from ml_service.common.errors import BadRequest
from ml_service.common.evaluation_options import Columns, EvaluationOptions, choose_columns

KINDS = (".csv", ".jsonl", ".parquet", ".zip")
_ROWS = 5
_LOOKED_AT = 50
_LONGEST_CELL = 200


@dataclass(frozen=True)
class Preview:
    """What is seen before anything is sent."""

    columns: Sequence[str] = ()
    rows: Sequence[Mapping[str, str]] = ()
    words: str = ""
    """What is to be said of it, where there is more to say."""
    is_bad: bool = False
    guess: Columns = field(default_factory=Columns)
    """What the service would take; empty where that is not known."""

    @property
    def suggestion(self) -> Columns:
        """The guess, and the one column where there is but one."""
        return self.guess if self.guess.names or len(self.columns) != 1 else Columns(text=self.columns[0])


def preview(name: str, head: bytes, has_more: bool) -> Preview:
    """Of a file by its name and its beginning."""
    suffix = PurePath(name).suffix.lower()
    if suffix in (".parquet", ".zip"):
        return Preview(words=f"What is in {suffix} is seen by the service alone: it finds columns with usual names.")
    if suffix not in KINDS:
        return Preview(words=f"The service judges {' '.join(KINDS)}.", is_bad=True)
    if not head:
        return Preview(words="The file is empty.", is_bad=True)
    if has_more:
        head = head[: head.rfind(b"\n") + 1]
    try:
        columns, rows = _parsed(head, suffix, has_more)
    except ValueError as error:
        return Preview(words=f"It cannot be read: {error}.", is_bad=True)
    if not columns:
        return Preview(words="There is no row to be seen at its beginning.", is_bad=True)
    return Preview(columns, rows, guess=_guess(columns))


def _guess(columns: Sequence[str]) -> Columns:
    try:
        return choose_columns(EvaluationOptions(), columns, has_images=False)
    except BadRequest:
        return Columns()


def _parsed(head: bytes, suffix: str, is_cut: bool) -> tuple[list[str], list[dict[str, str]]]:
    """Columns, and the first rows that can be used. Raises ValueError."""
    read: Callable[[Path], tuple[list[str], list[Any]]] = _csv if suffix == ".csv" else _json
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(head)
        file.flush()
        columns, rows = read(Path(file.name))
    if is_cut and suffix == ".csv":  # a cell in quotes may go on behind what is seen
        rows = rows[:-1]
    usable = [row for row in rows if isinstance(row, dict)]
    return columns, [{name: cell[:_LONGEST_CELL] for name, cell in row.items()} for row in usable[:_ROWS]]


def _csv(path: Path) -> tuple[list[str], list[Any]]:
    columns: list[str] = []
    rows = list(islice(table_rows(path, columns.extend), _LOOKED_AT))
    return columns, rows


def _json(path: Path) -> tuple[list[str], list[Any]]:
    rows = list(islice(_cells(json_lines(path)), _LOOKED_AT))
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _cells(values: Iterator[Any]) -> Iterator[dict[str, str]]:
    for value in values:
        if isinstance(value, str):
            yield {"text": value}
        elif isinstance(value, dict):
            plain = {name: cell for name, cell in value.items() if isinstance(cell, str | bool | int | float)}
            yield {name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in plain.items()}
        elif not isinstance(value, BrokenRow):
            yield {}
