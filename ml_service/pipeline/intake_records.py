"""The records of an intake under way, in a file of its own, so that memory is flat in their number."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_service.data.batches import NewRecord

_ROWS_AT_ONCE = 1000
_HASHES_AT_ONCE = 500
_CREATE = """CREATE TABLE records (
    hash BLOB PRIMARY KEY, size INTEGER NOT NULL, split TEXT NOT NULL, shard TEXT NOT NULL, row INTEGER NOT NULL
) WITHOUT ROWID"""


class IntakeRecords:
    """Records by their content hash. Thrown away after the intake: nothing of it needs to outlive a crash."""

    def __init__(self, path: Path) -> None:
        # Filled by the thread that reads, emptied by the one that accepts; never by both at once.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-16384"):
            self._connection.execute(f"PRAGMA {pragma}").close()
        self._connection.execute(_CREATE)
        self.count = 0

    def known(self, hashes: Sequence[str]) -> set[str]:
        """Those of them that are there."""
        found: set[str] = set()
        for begin in range(0, len(hashes), _HASHES_AT_ONCE):
            some = [bytes.fromhex(value) for value in hashes[begin : begin + _HASHES_AT_ONCE]]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(f"SELECT hash FROM records WHERE hash IN ({marks})", some)
            found.update(row[0].hex() for row in rows)
        return found

    def add(self, records: Sequence[NewRecord]) -> None:
        """Each of them is new."""
        rows = [(bytes.fromhex(record.content_hash), *record[1:]) for record in records]
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")
        self.count += len(rows)

    def hashes(self) -> Iterator[bytes]:
        """Ascending."""
        return (row[0] for row in self._rows("hash"))

    def __iter__(self) -> Iterator[NewRecord]:
        """All of them, by their hash."""
        return (NewRecord(row[0].hex(), *row[1:]) for row in self._rows("hash, size, split, shard, row"))

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def _rows(self, columns: str) -> Iterator[tuple[bytes, int, str, str, int]]:
        cursor = self._connection.execute(f"SELECT {columns} FROM records ORDER BY hash")
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield from rows
