"""Parquet shards of documents: the columns source, name, hash and text, some 64 MiB of text in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lib.text_data import Document

SHARD_BYTES = 64 << 20
SHARD_DOCUMENTS = 1 << 16
COLUMNS = pa.schema([("source", pa.string()), ("name", pa.string()), ("hash", pa.string()), ("text", pa.string())])


class Place(NamedTuple):
    """Where the first of some documents went; the others are in the rows after it."""

    shard: str
    row: int


class ShardWriter:
    """`{split}-{index:05d}.parquet` in a directory; none where there is no document."""

    def __init__(self, directory: Path, split: str) -> None:
        self._directory, self._split = directory, split
        self._index = self._bytes = self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, documents: Sequence[Document]) -> Place:
        """Append a group of rows to one shard."""
        name = f"{self._split}-{self._index:05d}.parquet"
        place = Place(name, self._rows)
        if not documents:
            return place
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._directory / name, COLUMNS, compression="zstd")
        rows = [{"source": d.source, "name": d.name, "hash": d.content_hash, "text": d.text} for d in documents]
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, COLUMNS))
        self._bytes += sum(document.size_bytes for document in documents)
        self._rows += len(documents)
        if self._bytes >= SHARD_BYTES or self._rows >= SHARD_DOCUMENTS:
            self.close()
        return place

    def close(self) -> None:
        """End the current file."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes, self._rows = None, 0, 0
            self._index += 1


def iterate_documents(directory: Path, split: str) -> Iterator[Document]:
    """The documents of one split, from its Parquet shards, in order."""
    for shard in sorted(directory.glob(f"{split}-*.parquet")):
        file = pq.ParquetFile(shard)
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                yield Document(row["source"], row["name"], row["text"], row["hash"])
