"""Text documents from files: read, cut where too long, refuse in words, normalise, split by content."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, AnyStr, BinaryIO

from lib.files import sha256_of_text

PLAIN_SUFFIXES = frozenset({".txt", ".md", ".py", ".rst", ".pyi", ".toml", ".cfg"})
ROW_SUFFIXES = frozenset({".jsonl", ".csv", ".parquet"})
TEXT_COLUMN = "text"
MAX_DOCUMENT_BYTES = 1_000_000
MAX_ROW_BYTES = 16 << 20
"""A row that is longer is taken for a broken file: the memory that reading takes must have a bound."""
_SPLIT_BUCKETS = 10_000


@dataclass(frozen=True)
class SourceFile:
    """A file to read: where it lies, and the name under which it is remembered (never an absolute path)."""

    path: Path
    name: str
    source: str
    split: str | None = None
    """`train` or `validation` where that is decided; else each document's content decides."""


@dataclass(frozen=True)
class Document:
    """One text, with line ends normalised to LF and no byte order mark."""

    source: str
    name: str
    text: str
    content_hash: str
    chosen_split: str | None = None
    """Where its file decided it."""

    @property
    def size_bytes(self) -> int:
        """The size of the text in UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True)
class Rejected:
    """A file or row that was left out, and why."""

    source: str
    name: str
    reason: str


def read_documents(
    files: Iterable[SourceFile], max_document_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[Document | Rejected]:
    """Read each file in order; what cannot be used is named with its reason and never raises.

    A text over the limit becomes several documents, cut between paragraphs, else lines, else words, so that memory
    is flat in the size of a file.
    """
    for file in files:
        try:
            if file.path.suffix.lower() in ROW_SUFFIXES:
                yield from _documents_of_rows(file, max_document_bytes)
            else:
                with file.path.open("rb") as stream:
                    yield from _documents_of(stream, file, file.name, max_document_bytes)
        except OSError as error:
            yield Rejected(file.source, file.name, f"unreadable: {error.strerror or 'not a readable file'}")
        except (ValueError, RecursionError, csv.Error) as error:
            yield Rejected(file.source, file.name, f"malformed: {str(error)[:120]}")


def content_hash(text: str) -> str:
    """What makes two texts the same one: SHA-256 over NFC, trailing white space and outer blank lines ignored."""
    lines = (line.rstrip() for line in unicodedata.normalize("NFC", text).strip().split("\n"))
    return sha256_of_text("\n".join(lines))


def split_of(hash_hex: str, validation_share: float) -> str:
    """`train` or `validation`: a function of the content alone, so that nothing ever moves between them."""
    bucket = int(hash_hex[:12], 16) % _SPLIT_BUCKETS
    return "validation" if bucket < validation_share * _SPLIT_BUCKETS else "train"


def _documents_of_rows(file: SourceFile, max_document_bytes: int) -> Iterator[Document | Rejected]:
    for number, row in enumerate(_rows(file.path), start=1):
        name = f"{file.name}:{number}"
        if isinstance(row, Exception):
            yield Rejected(file.source, name, f"malformed: {str(row)[:120]}")
        elif row is None:
            yield Rejected(file.source, name, f"no text in column {TEXT_COLUMN!r}")
        else:
            try:
                raw = row.encode("utf-8")
            except UnicodeEncodeError:  # half a surrogate pair
                yield Rejected(file.source, name, "undecodable as UTF-8")
                continue
            yield from _documents_of(BytesIO(raw), file, name, max_document_bytes)


def _documents_of(
    stream: BinaryIO, file: SourceFile, name: str, max_document_bytes: int
) -> Iterator[Document | Rejected]:
    """One document, or one of each piece; an undecodable piece fails alone."""
    for number, piece in enumerate(_pieces(stream, max_document_bytes), start=1):
        own_name = name if number == 1 else f"{name}#{number}"
        if b"\0" in piece:
            yield Rejected(file.source, own_name, "binary")
            return
        try:
            text = piece.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            yield Rejected(file.source, own_name, "undecodable as UTF-8")
            continue
        if text.strip():
            yield Document(file.source, own_name, text, content_hash(text), file.split)
        elif number == 1:
            yield Rejected(file.source, own_name, "empty")


def _pieces(stream: BinaryIO, limit_bytes: int) -> Iterator[bytes]:
    """At most `limit_bytes` each; together they are the whole, byte by byte."""
    rest = b""
    while True:
        rest += stream.read(limit_bytes + 1 - len(rest))
        if len(rest) <= limit_bytes:
            yield rest
            return
        end = _place_to_cut(rest, limit_bytes)
        yield rest[:end]
        rest = rest[end:]


def _place_to_cut(raw: bytes, limit_bytes: int) -> int:
    for border in (b"\n\n", b"\n", b" "):
        found = raw.rfind(border, limit_bytes // 2, limit_bytes)
        if found > 0:
            return found + len(border)
    end = limit_bytes
    while end > limit_bytes - 4 and raw[end] & 0xC0 == 0x80:  # never inside of a character
        end -= 1
    return end


def _rows(path: Path) -> Iterator[str | Exception | None]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _jsonl_rows(path)
    elif suffix == ".csv":
        csv.field_size_limit(MAX_ROW_BYTES)
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(_lines_of(file)):
                text = row.get(TEXT_COLUMN)
                yield text if isinstance(text, str) else None
    else:
        yield from _parquet_rows(path)


def _jsonl_rows(path: Path) -> Iterator[str | Exception | None]:
    """Each row on its own: one that cannot be read is an exception, and the next ones go on."""
    with path.open("rb") as file:
        for line in _lines_of(file):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield error
                continue
            text = row.get(TEXT_COLUMN) if isinstance(row, dict) else row
            yield text if isinstance(text, str) else None


def _lines_of(file: IO[AnyStr]) -> Iterator[AnyStr]:
    while line := file.readline(MAX_ROW_BYTES):
        if len(line) == MAX_ROW_BYTES:
            raise ValueError(f"a line is longer than {MAX_ROW_BYTES >> 20} MiB")
        yield line


def _parquet_rows(path: Path) -> Iterator[str | None]:
    from lib.parquet_rows import ParquetRows  # pyarrow stays out of a serving process

    table = ParquetRows(path)
    if TEXT_COLUMN not in table.columns:
        raise ValueError(f"no column {TEXT_COLUMN!r}")
    for row in table.rows([TEXT_COLUMN]):
        value = row[TEXT_COLUMN]
        yield value if isinstance(value, str) else None
