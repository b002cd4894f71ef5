"""Building a data set: read, deduplicate, hold out, shard, train a tokenizer, pack; flat in memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from lib.files import staged_directory, write_json
from lib.near_duplicates import HeldOutLines
from lib.text_data import Document, Rejected, SourceFile, read_documents, split_of
from lib.token_shards import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    SPLITS,
    TOKENIZER_FILE,
    DatasetManifest,
    PartCounts,
    iterate_documents,
    token_dtype,
    token_path,
)
from lib.tokenizer import end_of_text_id, save_tokenizer, train_byte_level_bpe

REJECTED_FILE = "rejected.jsonl"
DOCUMENTS_PER_BATCH = 256
BATCH_BYTES = 4 << 20
"""A batch is tokenised and stored as one: with either of the two it is full."""
SHARD_BYTES = 64 << 20
TOKENIZER_SAMPLE_BYTES = 12_000_000
_COLUMNS = pa.schema([("source", pa.string()), ("name", pa.string()), ("hash", pa.string()), ("text", pa.string())])

Report = Callable[[str, int], None]
"""Told of progress: (name of the phase, documents done in it)."""


@dataclass(frozen=True)
class BuildOptions:
    """How to turn documents into a data set."""

    vocabulary_size: int = 8192
    validation_share: float = 0.05
    tokenizer: Tokenizer | None = None
    """Trained on the train split where None."""
    max_document_bytes: int = 1_000_000
    report: Report = field(default=lambda phase, done: None)


def build_dataset(files: Callable[[], Iterable[SourceFile]], output: Path, options: BuildOptions) -> DatasetManifest:
    """Read, deduplicate, split, train a tokenizer, pack. `output` appears complete or not at all.

    `files` is called twice: held-out documents must be known before the others are compared with them. Memory is flat
    in the size of the corpus but for 100 bytes a document and the lines of the held-out ones.
    Raises ValueError where nothing is left to train on or to validate with, FileExistsError where `output` is in use.
    """
    with staged_directory(output) as directory:
        held_out = _hold_out(files(), options)
        rejected = _write_shards(files(), held_out, directory, options)
        if not list(directory.glob("train-*.parquet")):
            raise ValueError(f"no usable document to train on; left out: {dict(rejected) or 'nothing, there was none'}")
        if not list(directory.glob("validation-*.parquet")):
            raise ValueError(f"no document fell into the validation share of {options.validation_share:g}: add more")
        tokenizer = options.tokenizer or train_byte_level_bpe(
            _sample_of_texts(directory, TOKENIZER_SAMPLE_BYTES, options.report), options.vocabulary_size
        )
        tokenizer_sha256 = save_tokenizer(tokenizer, directory / TOKENIZER_FILE)
        parts, document_digest, token_bytes = _pack(directory, tokenizer, options)
        manifest = DatasetManifest(
            format_version=FORMAT_VERSION,
            fingerprint=hashlib.sha256(f"{document_digest}:{tokenizer_sha256}".encode()).hexdigest(),
            tokenizer_sha256=tokenizer_sha256,
            vocabulary_size=tokenizer.get_vocab_size(),
            token_bytes=token_bytes,
            validation_share=options.validation_share,
            parts=parts,
            rejected=dict(sorted(rejected.items())),
        )
        write_json(directory / MANIFEST_FILE, manifest.model_dump())
    return manifest


def _hold_out(files: Iterable[SourceFile], options: BuildOptions) -> HeldOutLines:
    held_out, seen = HeldOutLines(), set()
    for done, document in enumerate(read_documents(files, options.max_document_bytes), start=1):
        options.report("hold out", done)
        if isinstance(document, Document) and document.content_hash not in seen:
            seen.add(document.content_hash)
            if _split_of(document, options.validation_share) == "validation":
                held_out.add(document.name, document.text)
    return held_out


def _write_shards(
    files: Iterable[SourceFile], held_out: HeldOutLines, directory: Path, options: BuildOptions
) -> Counter[str]:
    reasons: Counter[str] = Counter()
    seen: set[str] = set()
    writers = {split: _ShardWriter(directory, split) for split in SPLITS}
    with (directory / REJECTED_FILE).open("w", encoding="utf-8") as log:
        for done, item in enumerate(read_documents(files, options.max_document_bytes), start=1):
            options.report("shard", done)
            refused = _refusal(item, seen, held_out, options.validation_share)
            if refused is not None:
                reasons[refused.reason.split(":")[0]] += 1
                log.write(json.dumps(refused.__dict__, ensure_ascii=False) + "\n")
            else:
                assert isinstance(item, Document), "only documents pass"
                seen.add(item.content_hash)
                writers[_split_of(item, options.validation_share)].add(item)
    for writer in writers.values():
        writer.close()
    return reasons


def _refusal(
    item: Document | Rejected, seen: set[str], held_out: HeldOutLines, validation_share: float
) -> Rejected | None:
    if isinstance(item, Rejected):
        return item
    if item.content_hash in seen:
        return Rejected(item.source, item.name, "duplicate")
    if _split_of(item, validation_share) == "train" and (twin := held_out.repeated_by(item.text)):
        return Rejected(item.source, item.name, f"near duplicate of held-out: {twin}")
    return None


def _split_of(document: Document, validation_share: float) -> str:
    return document.chosen_split or split_of(document.content_hash, validation_share)


class _ShardWriter:
    """Parquet files of about 64 MiB of text each, `{split}-{index:05d}.parquet`; none where there is no document."""

    def __init__(self, directory: Path, split: str) -> None:
        self._directory, self._split = directory, split
        self._index = 0
        self._rows: list[dict[str, str]] = []
        self._bytes = self._waiting_bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, document: Document) -> None:
        self._rows.append(
            {"source": document.source, "name": document.name, "hash": document.content_hash, "text": document.text}
        )
        self._bytes += document.size_bytes
        self._waiting_bytes += document.size_bytes
        if len(self._rows) >= DOCUMENTS_PER_BATCH or self._waiting_bytes >= BATCH_BYTES:
            self._flush()
        if self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes = None, 0
            self._index += 1

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            path = self._directory / f"{self._split}-{self._index:05d}.parquet"
            self._writer = pq.ParquetWriter(path, _COLUMNS, compression="zstd")
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, _COLUMNS))
        self._rows, self._waiting_bytes = [], 0


def _sample_of_texts(directory: Path, max_bytes: int, report: Report) -> Iterator[str]:
    """The first `max_bytes` of each source's train texts: enough for the tokenizer, flat in memory."""
    taken: Counter[str] = Counter()
    for done, document in enumerate(iterate_documents(directory, "train"), start=1):
        report("tokenizer", done)
        if taken[document.source] < max_bytes:
            taken[document.source] += document.size_bytes
            yield document.text


def _pack(
    directory: Path, tokenizer: Tokenizer, options: BuildOptions
) -> tuple[dict[str, dict[str, PartCounts]], str, int]:
    (directory / "tokens").mkdir()
    token_bytes = 2 if tokenizer.get_vocab_size() <= 1 << 16 else 4
    end_of_text = end_of_text_id(tokenizer)
    tally: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    keys: list[str] = []
    done = 0
    for split in SPLITS:
        for batch in _batches(iterate_documents(directory, split)):
            for document, encoding in zip(
                batch, tokenizer.encode_batch_fast([d.text for d in batch], add_special_tokens=False), strict=True
            ):
                ids = np.array([*encoding.ids, end_of_text], dtype=token_dtype(token_bytes))
                with token_path(directory, split, document.source).open("ab") as file:
                    ids.tofile(file)
                counts = tally[split][document.source]
                for index, amount in enumerate((1, document.size_bytes, len(ids))):
                    counts[index] += amount
                keys.append(f"{split}\0{document.source}\0{document.name}\0{document.content_hash}")
            done += len(batch)
            options.report("pack", done)
    parts = {
        split: {
            source: PartCounts(documents=documents, bytes=size, tokens=tokens)
            for source, (documents, size, tokens) in sorted(sources.items())
        }
        for split, sources in tally.items()
    }
    return parts, hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest(), token_bytes


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    batch_bytes = 0
    for document in documents:
        batch.append(document)
        batch_bytes += document.size_bytes
        if len(batch) == DOCUMENTS_PER_BATCH or batch_bytes >= BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
