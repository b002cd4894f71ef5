"""The rows of an upload: a table of any kind, alone or in an archive with the images that it names."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lib.row_files import BrokenRow, json_lines, table_rows
from lib.zip_members import Member, OverLimit, ZipLimits, ZipMembers
from ml_service.common.errors import BadRequest, TooLarge

TABLE_KINDS = (".csv", ".jsonl", ".parquet")
KINDS = (*TABLE_KINDS, ".zip")
MAX_IMAGE_BYTES = 64 << 20
MAX_ROW_BYTES = 1 << 20
"""Of a table of text; what waits to be judged is in memory."""
_ROWS_AT_ONCE = 16
"""Of Parquet: as long as they may be they take 32 MiB."""
_LOOKED_AT = 50
"""Rows of JSON whose fields are taken for the table's columns."""
Cells = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A row of the table, from 1 on: its cells that are not empty, or why it cannot be used."""

    number: int
    cells: Cells
    broken: str | None = None


class Table(Protocol):
    """A file of rows."""

    columns: list[str]

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All of them, read anew, with these columns at least. Raises BadRequest where the file breaks off."""


class Archive:
    """The images that lie beside a table."""

    def __init__(self, members: ZipMembers, table_name: str) -> None:
        self._members = members
        self._by_name = {member.name: member for member in members}
        self._folder = table_name.rpartition("/")[0]

    def image(self, name: str, scratch: Path) -> bytes:
        """An image by the name that the table gives it. Raises BadRequest, TooLarge in words."""
        member = self._find(name.strip().replace("\\", "/").removeprefix("./"))
        if member is None:
            raise BadRequest(f"there is no {name[:100]!r} in the archive")
        if member.refusal is not None:
            raise BadRequest(f"{name[:100]!r} cannot be unpacked: {member.refusal}")
        _unpack(self._members, member, scratch)
        if scratch.stat().st_size > MAX_IMAGE_BYTES:
            raise TooLarge(f"an image has at most {MAX_IMAGE_BYTES:,} bytes")
        return scratch.read_bytes()

    def _find(self, name: str) -> Member | None:
        return self._by_name.get(f"{self._folder}/{name}".lstrip("/")) or self._by_name.get(name)


def open_upload(path: Path, scratch: Path, stack: ExitStack) -> tuple[Table, Archive | None]:
    """A file by its suffix, open as long as the stack; the table of an archive is unpacked into `scratch`.

    Raises BadRequest, TooLarge.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _open_archive(path, scratch, stack)
    if suffix not in TABLE_KINDS:
        raise BadRequest(f"this is none of {' '.join(KINDS)}", [("file", "unknown kind")])
    return _open_table(path), None


def _open_archive(path: Path, scratch: Path, stack: ExitStack) -> tuple[Table, Archive]:
    try:
        members = ZipMembers(path, ZipLimits())
    except OverLimit as error:
        raise TooLarge(str(error)) from error
    except ValueError as error:
        raise BadRequest(str(error)) from error
    stack.callback(members.close)
    tables = [member for member in members if Path(member.name).suffix.lower() in TABLE_KINDS]
    tables = [member for member in tables if not Path(member.name).name.startswith(".")]
    if len(tables) != 1:
        found = "none" if not tables else ", ".join(member.name for member in tables[:5])
        raise BadRequest(f"the archive wants one table ({' '.join(TABLE_KINDS)}) that names its images; found: {found}")
    (table,) = tables
    if table.refusal is not None:
        raise BadRequest(f"{table.name} cannot be unpacked: {table.refusal}")
    unpacked = scratch / f"table{Path(table.name).suffix.lower()}"
    _unpack(members, table, unpacked)
    return _open_table(unpacked), Archive(members, table.name)


def _unpack(members: ZipMembers, member: Member, target: Path) -> None:
    try:
        members.unpack(member, target)
    except OverLimit as error:
        raise TooLarge(str(error)) from error
    except ValueError as error:
        raise BadRequest(f"{member.name} {error}") from error


def _open_table(path: Path) -> Table:
    kinds: dict[str, Callable[[Path], Table]] = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}
    try:
        table = kinds[path.suffix.lower()](path)
    except ValueError as error:
        raise BadRequest(f"the file cannot be read: {error}", [("file", "cannot be read")]) from error
    if not table.columns:
        raise BadRequest("there is no row in the file", [("file", "it is empty")])
    return table


class _Csv:
    def __init__(self, path: Path) -> None:
        csv.field_size_limit(MAX_ROW_BYTES)
        self._path = path
        self.columns: list[str] = []
        with suppress(_Seen):
            next(table_rows(path, self._see), None)

    def _see(self, columns: list[str]) -> None:
        self.columns = columns
        raise _Seen

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number, row in enumerate(table_rows(self._path, lambda columns: None, MAX_ROW_BYTES), 1):
            yield _broken(number, row.reason) if isinstance(row, BrokenRow) else Row(number, row)


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._path = path
        first = islice(self.rows(()), _LOOKED_AT)
        self.columns: list[str] = list(dict.fromkeys(name for row in first for name in row.cells))

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number, value in enumerate(json_lines(self._path, MAX_ROW_BYTES), 1):
            if isinstance(value, BrokenRow):
                yield _broken(number, value.reason)
            elif isinstance(value, str | dict):
                yield _row_of(number, {"text": value} if isinstance(value, str) else value)
            else:
                yield _broken(number, "neither a text nor an object")


class _Parquet:
    def __init__(self, path: Path) -> None:
        from lib.parquet_rows import ParquetRows  # pyarrow only where it is wanted

        self._file = ParquetRows(path)
        self.columns = self._file.columns

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        try:
            for number, value in enumerate(self._file.rows(columns, _ROWS_AT_ONCE), 1):
                yield _row_of(number, value)
        except ValueError as error:
            raise BadRequest(f"the file cannot be read: {error}") from error


class _Seen(Exception):
    """The columns are known: no row is wanted yet."""


def _row_of(number: int, values: Mapping[str, Any]) -> Row:
    """Numbers and truth values as JSON writes them; what is nested is left out."""
    cells = {}
    for name, value in values.items():
        if isinstance(value, str):
            cells[name] = value
        elif isinstance(value, bool | int | float):
            cells[name] = json.dumps(value)
    if any(len(cell) > MAX_ROW_BYTES for cell in cells.values()):
        return _broken(number, f"longer than {MAX_ROW_BYTES:,} bytes")
    unicode = all(_is_unicode(cell) for cell in cells.values())
    cells = {name: cell for name, cell in cells.items() if cell}
    return Row(number, cells) if unicode else _broken(number, "it has half a surrogate pair: not Unicode")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken(number: int, reason: str) -> Row:
    return Row(number, {}, reason)
