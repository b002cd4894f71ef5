"""Rows of a batch as wishes: from JSON, from the lines of a file or from an archive of pictures, one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lib.aside import aside
from lib.in_order import taken_in_a_thread
from lib.row_files import BrokenFile, BrokenRow, json_lines, table_rows, text_lines
from ml_service.backend.batch_pictures import open_pictures
from ml_service.backend.errors import bad_request_of
from ml_service.backend.options import values_of
from ml_service.backend.schemas import BatchRow
from ml_service.common.errors import BadRequest
from ml_service.common.types import GenerationParameters, unicode_of
from ml_service.data.staging import ReceivedFile
from ml_service.inference.image_reader import ImageReader
from ml_service.inference.reading import Reading

Options = Mapping[str, Any]
"""Parameters that were given for all rows."""
_OPTION_NAMES = frozenset(GenerationParameters.model_fields)
_COLUMNS = frozenset(BatchRow.model_fields)
_PIECE_ROWS = 64
_MAX_SCHEMA_CHARACTERS = 16 << 10


@dataclass(frozen=True)
class Wish:
    """What is to be continued: a text, or what is read in a picture; or why nothing is."""

    id: str
    text: str = ""
    parameters: GenerationParameters | None = None
    look: Callable[[], Awaitable[Reading]] | None = None
    error: str | None = None


Wishes = Iterable[Wish] | AsyncIterable[Wish]


def shared_of(options: GenerationParameters) -> Options:
    """What was given for all rows, and no defaults: a row's own parameters go before."""
    return options.model_dump(include=set(_OPTION_NAMES), exclude_unset=True)


def wishes_of(rows: Iterable[Any], shared: Options) -> Iterator[Wish]:
    """Rows as JSON has them; one that is wrong is a wish with its error."""
    return (_wish(number, row, shared) for number, row in enumerate(rows))


@asynccontextmanager
async def wishes_in(
    file: ReceivedFile, shared: Options, reader: ImageReader, max_image_bytes: int
) -> AsyncIterator[Wishes]:
    """The rows of a file, for as long as they are worked at; read as they are wanted, and never on the event loop.

    Raises BadRequest and TooLarge where the file as a whole cannot be used.
    """
    path = Path(file.path)
    if path.suffix == ".zip":
        pictures = await aside(open_pictures, path, reader, max_image_bytes)
        try:
            parameters = GenerationParameters(**shared)
            yield (Wish(p.name, parameters=parameters, look=p.read, error=p.refusal) for p in pictures)
        finally:
            await asyncio.shield(aside(pictures.close))
    else:
        async with aclosing(_wishes_of_lines(path, shared)) as wishes:
            try:
                first = await anext(wishes, None)  # what is wrong with the whole file gets its status, not a row
            except BrokenFile as error:
                raise BadRequest(f"{file.name}: {error}", [("file", str(error))]) from error
            if first is None:
                raise BadRequest(f"{file.name}: there is no row in it", [("file", "no rows")])
            async with aclosing(_chained(first, wishes)) as all_wishes:
                yield all_wishes


async def _wishes_of_lines(path: Path, shared: Options) -> AsyncGenerator[Wish, None]:
    rows = (_bounded(wish, shared.get("json_schema")) for wish in wishes_of(_rows(path), shared))
    async with aclosing(taken_in_a_thread(rows, _PIECE_ROWS)) as wishes:
        async for wish in wishes:
            yield wish


async def _chained(first: Wish, wishes: AsyncGenerator[Wish, None]) -> AsyncGenerator[Wish, None]:
    yield first
    async for wish in wishes:
        yield wish


def _rows(path: Path) -> Iterator[Any]:
    match path.suffix:
        case ".jsonl":
            return json_lines(path)
        case ".csv":
            return map(_of_cells, table_rows(path, _check_columns))
        case ".txt":
            return text_lines(path)
    raise BrokenFile("a file of prompts is a .jsonl, .csv or .txt, or a .zip of images")


def _bounded(wish: Wish, shared_schema: Any) -> Wish:
    """Without a schema that is large: as objects it takes twenty times its characters, and many rows wait at a time."""
    if wish.parameters is None or wish.parameters.json_schema in (None, shared_schema):
        return wish
    try:
        size = len(json.dumps(wish.parameters.json_schema))
    except RecursionError:
        size = _MAX_SCHEMA_CHARACTERS + 1
    if size <= _MAX_SCHEMA_CHARACTERS:
        return wish
    return Wish(wish.id, error=f"json_schema: longer than {_MAX_SCHEMA_CHARACTERS:,} characters")


def _check_columns(columns: list[str]) -> None:
    if "text" not in columns:
        raise BrokenFile("the table has no column `text`")
    if unknown := sorted(set(columns) - _COLUMNS):
        few = ", ".join(name[:40] for name in unknown[:5])
        raise BrokenFile(f"unknown columns: {few}. Beside `text` there can be `id` and parameters")


def _of_cells(row: dict[str, str] | BrokenRow) -> Any:
    """A row as JSON would have it."""
    try:
        return row if isinstance(row, BrokenRow) else values_of(BatchRow, {name: [row[name]] for name in row})
    except BadRequest as error:
        return BrokenRow(str(error))


def _wish(number: int, row: Any, shared: Options) -> Wish:
    own_id = row.get("id") if isinstance(row, dict) else None
    id_ = unicode_of(str(own_id)[:256]) if isinstance(own_id, str | int) else str(number)
    if isinstance(row, BrokenRow):
        return Wish(id_, error=row.reason)
    try:
        own = BatchRow.model_validate({"text": row} if isinstance(row, str) else row)
        given = own.model_dump(include=_OPTION_NAMES, exclude_unset=True)  # type: ignore[arg-type]
        return Wish(id_, own.text, GenerationParameters(**{**shared, **given}))
    except ValidationError as error:
        return Wish(id_, error=str(bad_request_of(error)))
