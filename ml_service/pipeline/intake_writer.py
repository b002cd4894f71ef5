"""New documents into shards: block by block compared with all that is known, then written with their signatures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from lib.document_shards import ShardWriter
from lib.files import flush_to_disk, sha256_of_file
from lib.minhash import Signatures, signatures
from lib.repeats import append_signatures, repeats
from lib.text_data import Document, split_of
from ml_service.data.batches import NewRecord
from ml_service.data.datasets import VALIDATION_SHARE, Datasets
from ml_service.data.version_manifest import SIGNATURES_SUFFIX, Amount, ShardEntry
from ml_service.pipeline.intake_records import IntakeRecords

SPLITS = ("train", "validation")


class IntakeWriter:
    """Makes a version's own shards in a folder that nobody reads yet, and that keeps its name when it moves."""

    def __init__(self, folder: Path, source: str, datasets: Datasets, records: IntakeRecords) -> None:
        folder.mkdir()
        self._folder, self._source, self._datasets, self._records = folder, source, datasets, records
        self._writers = {split: ShardWriter(folder, split) for split in SPLITS}
        self._amounts: dict[str, Amount] = {}
        latest = datasets.latest()
        self._earlier = [shard.signatures for shard in datasets.shards(latest.number)] if latest is not None else []
        self.left_out: Counter[str] = Counter()

    def write(self, block: list[Document]) -> None:
        """Keep what is neither known nor nearly so; the rest is counted."""
        fresh = self._unknown(block)
        signed = signatures([document.text for document in fresh])
        own = sorted(self._folder.glob(f"*{SIGNATURES_SUFFIX}"))
        repeated = repeats(signed, [*self._earlier, *own])
        self.left_out.update(duplicate=len(block) - len(fresh), near_duplicate=int(repeated.sum()))
        kept = np.flatnonzero(~repeated).tolist()
        splits = [split_of(document.content_hash, VALIDATION_SHARE) for document in fresh]
        for split in SPLITS:
            rows = [row for row in kept if splits[row] == split]
            if rows:
                self._keep(split, [fresh[row] for row in rows], signed[rows])

    def close(self, place: str) -> list[ShardEntry]:
        """End the shards and flush them to disk; `place` is where the folder will lie, relative to the store."""
        for writer in self._writers.values():
            writer.close()
        for path in sorted(self._folder.iterdir()):
            flush_to_disk(path)
        return [
            ShardEntry(
                path=f"{place}/{name}", sha256=sha256_of_file(self._folder / name), split=name.split("-")[0],
                source=self._source, records=amount.records, bytes=amount.bytes,
            )
            for name, amount in sorted(self._amounts.items())
        ]  # fmt: skip

    def _unknown(self, block: list[Document]) -> list[Document]:
        """The first of each content that no record has."""
        first = {document.content_hash: document for document in reversed(block)}
        hashes = list(first)
        known = self._datasets.known(hashes) | self._records.known(hashes)
        return [
            document
            for document in block
            if document is first[document.content_hash] and document.content_hash not in known
        ]

    def _keep(self, split: str, documents: list[Document], signed: Signatures) -> None:
        place = self._writers[split].write(documents)
        append_signatures((self._folder / place.shard).with_suffix(SIGNATURES_SUFFIX), signed)
        sizes = [document.size_bytes for document in documents]
        shard = f"{self._folder.name}/{place.shard}"
        self._records.add(
            [
                NewRecord(document.content_hash, size, split, shard, place.row + offset)
                for offset, (document, size) in enumerate(zip(documents, sizes, strict=True))
            ]
        )
        before = self._amounts.get(place.shard, Amount(records=0, bytes=0))
        self._amounts[place.shard] = before.plus(Amount(records=len(documents), bytes=sum(sizes)))
