"""The data set that grows: versions that never change, their shards, the records that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import select

from ml_service.common.errors import NotFound
from ml_service.data.batch_report import BatchReport
from ml_service.data.batches import report_of
from ml_service.data.database import Database
from ml_service.data.tables import DataBatch, DatasetVersion, Record
from ml_service.data.version_manifest import (
    SIGNATURES_SUFFIX,
    Counts,
    ShardEntry,
    VersionManifest,
    read_manifest,
    total,
)

VALIDATION_SHARE = 0.1
"""May never change: a record's split follows from its content and this number alone. With another one, records that a
model was trained on would move into validation, and no two scores could be compared any more."""
_HASHES_AT_ONCE = 500
_COUNTS = TypeAdapter(Counts)


@dataclass(frozen=True)
class AddedVersion:
    """A version and the batch that made it."""

    version: DatasetVersion
    batch: DataBatch


@dataclass(frozen=True)
class Shard:
    """A Parquet file of records, with the columns source, name, hash and text."""

    path: Path
    entry: ShardEntry

    @property
    def split(self) -> str:
        """`train` or `validation`."""
        return self.entry.split

    @property
    def size_bytes(self) -> int:
        """Of its text."""
        return self.entry.bytes

    @property
    def signatures(self) -> Path:
        """The MinHash signatures of its records, in their order."""
        return self.path.with_suffix(SIGNATURES_SUFFIX)


@dataclass(frozen=True)
class AddedBatch:
    """What became of an upload, and the version of the data set that has all of it."""

    batch: DataBatch
    report: BatchReport
    version: DatasetVersion | None
    was_there: bool
    """The same content had come before: that batch it is."""


class Datasets:
    """The versions of the one data set of a store."""

    def __init__(self, database: Database, store: Path) -> None:
        self._database, self._store = database, store

    def known(self, hashes: Sequence[str]) -> set[str]:
        """Those of them that a record has."""
        found: set[str] = set()
        with self._database.reading() as session:
            for begin in range(0, len(hashes), _HASHES_AT_ONCE):
                some = hashes[begin : begin + _HASHES_AT_ONCE]
                found.update(session.scalars(select(Record.content_hash).where(Record.content_hash.in_(some))))
        return found

    def hashes(self) -> Iterator[bytes]:
        """The content hashes of all records, ascending, some at a time."""
        with self._database.reading() as session:
            every = select(Record.content_hash).order_by(Record.content_hash).execution_options(yield_per=10_000)
            for content_hash in session.scalars(every):
                yield bytes.fromhex(content_hash)

    def latest(self) -> DatasetVersion | None:
        """The newest version, if there is one."""
        return next((added.version for added in self.history(1)), None)

    def get(self, number: int) -> DatasetVersion:
        """A version by its number. Raises NotFound."""
        return self.added(number).version

    def by_id(self, version_id: int) -> DatasetVersion:
        """A version by its row. Raises NotFound."""
        with self._database.reading() as session:
            if (version := session.get(DatasetVersion, version_id)) is None:
                raise NotFound(f"there is no version of the data set with the id {version_id}")
            return version

    def history(self, limit: int = 100, before: int | None = None) -> list[AddedVersion]:
        """Versions and their batches, newest first; those below the number `before`."""
        found = select(DatasetVersion, DataBatch).join(DataBatch).order_by(DatasetVersion.number.desc()).limit(limit)
        if before is not None:
            found = found.where(DatasetVersion.number < before)
        with self._database.reading() as session:
            return [AddedVersion(version, batch) for version, batch in session.execute(found)]

    def added(self, number: int) -> AddedVersion:
        """A version and its batch. Raises NotFound, naming the newest one."""
        newest = self.history(1)
        if newest and 1 <= number <= newest[0].version.number:
            return newest[0] if number == newest[0].version.number else self.history(1, number + 1)[0]
        known = f"the newest is {newest[0].version.number}" if newest else "nothing was added yet"
        raise NotFound(f"there is no version {number} of the data set: {known}")

    def manifest(self, number: int) -> VersionManifest:
        """What a version is made of, as its file says. Raises NotFound."""
        return read_manifest(self._store / self.get(number).manifest_path)

    def shards(self, number: int) -> list[Shard]:
        """The files of a version, oldest first: first those of its parent, then its own. Raises NotFound."""
        return [Shard(self._store / entry.path, entry) for entry in self.manifest(number).shards]

    def outcome_of(self, batch: DataBatch, was_there: bool) -> AddedBatch:
        """Raises what the batch was rejected for."""
        report = report_of(batch)
        version = self.get(report.version) if report.version is not None else None
        return AddedBatch(batch, report, version, was_there)

    def size_bytes(self, version: DatasetVersion) -> int:
        """All text of a version."""
        return total(counts_in(version)).bytes


def counts_in(version: DatasetVersion) -> Counts:
    """What each source gave to each split of a version."""
    return _COUNTS.validate_python(version.counts)
