"""Rows of strangers' `.txt`, `.jsonl` and `.csv` files, read as they are wanted; a broken row is told in its place."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_ROW_BYTES = 128 << 10
"""Of a row, where nothing else is said: what is read at a time has a bound.

A cell of a table cannot be longer either (`csv.field_size_limit`, of the whole process).
"""
MAX_COLUMNS = 1_000
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""Byte order marks; the longer ones first, as the shorter begin alike."""


class BrokenFile(ValueError):
    """None of it can be used; found before the first row."""


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used, and why; the next ones can."""

    reason: str


def text_lines(path: Path, most_bytes: int = MAX_ROW_BYTES) -> Iterator[str | BrokenRow]:
    """Every line, an empty one too, without its end. Raises BrokenFile at the first one."""
    with path.open("rb") as file:
        _check_beginning(file)
        for line in _lines(file, most_bytes):
            yield line if isinstance(line, BrokenRow) else _decoded(line)


def json_lines(path: Path, most_bytes: int = MAX_ROW_BYTES) -> Iterator[Any]:
    """The values of the lines, BrokenRow among them; empty lines are left out. Raises BrokenFile at the first one."""
    for line in text_lines(path, most_bytes):
        if isinstance(line, BrokenRow):
            yield line
        elif line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield BrokenRow(f"not JSON: {str(error)[:120]}")


def table_rows(
    path: Path, check: Callable[[list[str]], None], most_bytes: int = MAX_ROW_BYTES
) -> Iterator[dict[str, str] | BrokenRow]:
    """The rows of a table by their columns, of which `check` is told before; cells that are empty are left out.

    Raises BrokenFile at the first row, and what `check` raises.
    """
    with path.open("rb") as file:
        _check_beginning(file)
        lines = _RecordLines(file, most_bytes)
        records = csv.reader(lines)
        try:
            columns = next(records, [])
        except (csv.Error, ValueError) as error:
            raise BrokenFile(f"the first line names no columns: {error}") from error
        if len(columns) > MAX_COLUMNS:
            raise BrokenFile(f"the table has {len(columns):,} columns: at most {MAX_COLUMNS:,} are read")
        if twice := next((name for name in columns if columns.count(name) > 1), None):
            raise BrokenFile(f"the table has two columns {_shortened(twice)}")
        check(columns)
        while (cells := _next_record(records, lines)) is not None:
            if isinstance(cells, BrokenRow):
                yield cells
            elif cells:
                yield _by_column(columns, cells)


class _RecordLines:
    """Decoded lines of a table; a record whose lines are too long together ends where that is seen."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self._lines, self._most = _lines(file, most_bytes, keeps_ends=True), most_bytes
        self._left = most_bytes

    def begin_record(self) -> None:
        """A record begins with the next line."""
        self._left = self._most

    def __iter__(self) -> _RecordLines:
        """The csv module asks for it."""
        return self

    def __next__(self) -> str:
        """The next line. Raises ValueError where it cannot be read or the record has no room for it."""
        line = next(self._lines)
        if isinstance(line, BrokenRow):
            raise ValueError(line.reason)
        self._left -= len(line)
        if self._left < 0:
            raise ValueError(_too_long(self._most))
        text = _decoded(line)
        if isinstance(text, BrokenRow):
            raise ValueError(text.reason)
        return text


def _next_record(records: Iterator[list[str]], lines: _RecordLines) -> list[str] | BrokenRow | None:
    lines.begin_record()
    try:
        return next(records, None)
    except (csv.Error, ValueError) as error:  # the reader begins anew with the next line
        return BrokenRow(str(error))


def _by_column(columns: list[str], cells: list[str]) -> dict[str, str] | BrokenRow:
    if len(cells) > len(columns):
        return BrokenRow(f"{len(cells):,} cells for {len(columns):,} columns")
    return {column: cell for column, cell in zip(columns, cells, strict=False) if cell}


def _lines(file: BinaryIO, most_bytes: int, *, keeps_ends: bool = False) -> Iterator[bytes | BrokenRow]:
    """Lines as they are in the file; of one that is too long nothing is kept."""
    while line := file.readline(most_bytes + 2):  # two more for its end
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(content) <= most_bytes:
            yield line if keeps_ends else content
            continue
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(most_bytes)
        yield BrokenRow(_too_long(most_bytes))


def _decoded(line: bytes) -> str | BrokenRow:
    if b"\0" in line:
        return BrokenRow("it has NUL bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return BrokenRow(f"not UTF-8: {error.reason} at byte {error.start}")


def _check_beginning(file: BinaryIO) -> None:
    """Raises BrokenFile where the first line is no text; else the file stands behind its byte order mark."""
    head = file.readline(MAX_ROW_BYTES)
    for mark, encoding in _OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise BrokenFile(f"the file is {encoding}: UTF-8 is wanted")
    if b"\0" in head:
        raise BrokenFile("the file is no text: its first line has NUL bytes")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # what was read of it may end within a character
    except UnicodeDecodeError as error:
        raise BrokenFile(f"the file is not UTF-8: {error.reason} at byte {error.start}") from error
    file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)


def _too_long(most_bytes: int) -> str:
    return f"longer than {most_bytes:,} bytes"


def _shortened(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "…")
