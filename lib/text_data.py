"""Text documents from files: read, refuse in words, normalise, split by content."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.files import sha256_of_text

PLAIN_SUFFIXES = frozenset({".txt", ".md", ".py", ".rst", ".pyi", ".toml", ".cfg"})
ROW_SUFFIXES = frozenset({".jsonl", ".csv", ".parquet"})
TEXT_COLUMN = "text"
MAX_DOCUMENT_BYTES = 1_000_000
_SPLIT_BUCKETS = 10_000


@dataclass(frozen=True)
class SourceFile:
    """A file to read: where it lies, and the name under which it is remembered (never an absolute path)."""

    path: Path
    name: str
    source: str


@dataclass(frozen=True)
class Document:
    """One text, with line ends normalised to LF and no byte order mark."""

    source: str
    name: str
    text: str
    content_hash: str

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
    """Read each file in order; what cannot be used is named with its reason and never raises."""
    for file in files:
        suffix = file.path.suffix.lower()
        try:
            if suffix in ROW_SUFFIXES:
                for number, row in enumerate(_rows(file.path), start=1):
                    name = f"{file.name}:{number}"
                    if isinstance(row, Exception):
                        yield Rejected(file.source, name, f"malformed: {str(row)[:120]}")
                    else:
                        yield _document_of(row, file.source, name, max_document_bytes)
            elif file.path.stat().st_size > max_document_bytes:
                yield Rejected(file.source, file.name, "over-long")
            else:
                yield _document_of(file.path.read_bytes(), file.source, file.name, max_document_bytes)
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


def _document_of(raw: bytes | str | None, source: str, name: str, max_document_bytes: int) -> Document | Rejected:
    if not isinstance(raw, bytes | str):
        return Rejected(source, name, f"no text in column {TEXT_COLUMN!r}")
    if isinstance(raw, bytes):
        if b"\0" in raw:
            return Rejected(source, name, "binary")
        try:
            raw = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            return Rejected(source, name, "undecodable as UTF-8")
    text = raw.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        return Rejected(source, name, "empty")
    try:
        size_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return Rejected(source, name, "undecodable as UTF-8")
    if size_bytes > max_document_bytes:
        return Rejected(source, name, "over-long")
    return Document(source, name, text, content_hash(text))


def _rows(path: Path) -> Iterator[str | Exception | None]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _jsonl_rows(path)
    elif suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        with path.open(newline="", encoding="utf-8-sig") as lines:
            for row in csv.DictReader(lines):
                yield row.get(TEXT_COLUMN)
    else:
        yield from _parquet_rows(path)


def _jsonl_rows(path: Path) -> Iterator[str | Exception | None]:
    """Each row on its own: one that cannot be read is an exception, and the next ones go on."""
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield error
                continue
            text = row.get(TEXT_COLUMN) if isinstance(row, dict) else row
            yield text if isinstance(text, str) else None


def _parquet_rows(path: Path) -> Iterator[str | None]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        if TEXT_COLUMN not in table.schema_arrow.names:
            raise ValueError(f"no column {TEXT_COLUMN!r}")
        for batch in table.iter_batches(columns=[TEXT_COLUMN], batch_size=1024):
            for value in batch.column(0).to_pylist():
                yield value if isinstance(value, str) else None
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
