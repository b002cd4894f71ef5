"""A version of the data set as a file: every shard that it is made of, with hash and counts; never changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lib.files import write_json

MANIFEST_FILE = "version.json"
FORMAT_VERSION = 1
SIGNATURES_SUFFIX = ".minhash"


class Amount(BaseModel):
    """How much text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    records: int
    bytes: int

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(records=self.records + other.records, bytes=self.bytes + other.bytes)


Counts = dict[str, dict[str, Amount]]
"""split → source → amount."""


class ShardEntry(BaseModel):
    """A Parquet file of records of one source and split; its signatures lie beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    """Relative to the store."""
    sha256: str
    split: str
    source: str
    records: int
    bytes: int


class VersionManifest(BaseModel):
    """`version.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: int = FORMAT_VERSION
    number: int
    parent: int | None
    batch_id: int
    fingerprint: str
    """The Merkle root over the content hashes of all records: the same content has the same one."""
    created: str
    counts: Counts
    """What each source gave to each split."""
    shards: list[ShardEntry]

    def write(self, folder: Path) -> None:
        """Into the version's folder."""
        write_json(folder / MANIFEST_FILE, self.model_dump())


def read_manifest(path: Path) -> VersionManifest:
    """Of a version. Raises FileNotFoundError, ValueError."""
    return VersionManifest.model_validate_json(path.read_bytes())


def counts_of(shards: Iterable[ShardEntry]) -> Counts:
    """What each source gave to each split."""
    counts: Counts = {}
    for shard in shards:
        sources = counts.setdefault(shard.split, {})
        own = Amount(records=shard.records, bytes=shard.bytes)
        sources[shard.source] = own.plus(sources[shard.source]) if shard.source in sources else own
    return counts


def total(counts: Counts, split: str | None = None) -> Amount:
    """Of a split, or of all."""
    amount = Amount(records=0, bytes=0)
    for name, sources in counts.items():
        if split in (None, name):
            for own in sources.values():
                amount = amount.plus(own)
    return amount
