"""Building a data set: read, deduplicate, hold out, shard, train a tokenizer, pack; flat in memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from lib.bulk_encoder import BulkEncoder
from lib.document_shards import ShardWriter
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
    token_bytes_for,
    token_dtype,
    token_path,
)
from lib.tokenizer import end_of_text_id, save_tokenizer, train_byte_level_bpe

REJECTED_FILE = "rejected.jsonl"
DOCUMENTS_PER_BATCH = 256
BATCH_BYTES = 2 << 20
"""A batch is stored and tokenised as one: with either of the two it is full."""
TOKENIZER_SAMPLE_BYTES = 8_000_000

Tokens = list[npt.NDArray[np.uint32]]
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
        held_out, sample = _look(files(), options)
        tokenizer = options.tokenizer or train_byte_level_bpe(sample, options.vocabulary_size)
        tokenizer_sha256 = save_tokenizer(tokenizer, directory / TOKENIZER_FILE)
        reasons: Counter[str] = Counter()
        writer = _PartWriter(directory, tokenizer)
        accepted = _accepted(files(), held_out, directory / REJECTED_FILE, reasons, options)
        for batch, tokens in _encoded(_batches(accepted), tokenizer):
            writer.write(batch, tokens)
        parts, document_digest = writer.close()
        if "train" not in parts:
            raise ValueError(f"no usable document to train on; left out: {dict(reasons) or 'nothing, there was none'}")
        if "validation" not in parts:
            raise ValueError(f"no document fell into the validation share of {options.validation_share:g}: add more")
        manifest = DatasetManifest(
            format_version=FORMAT_VERSION,
            fingerprint=hashlib.sha256(f"{document_digest}:{tokenizer_sha256}".encode()).hexdigest(),
            tokenizer_sha256=tokenizer_sha256,
            vocabulary_size=tokenizer.get_vocab_size(),
            token_bytes=writer.token_bytes,
            validation_share=options.validation_share,
            parts=parts,
            rejected=dict(sorted(reasons.items())),
        )
        write_json(directory / MANIFEST_FILE, manifest.model_dump())
    return manifest


def _look(files: Iterable[SourceFile], options: BuildOptions) -> tuple[HeldOutLines, list[str]]:
    """What is held out, and of the rest the first texts of each source, for the tokenizer."""
    held_out, seen, sample = HeldOutLines(), set(), []
    taken: Counter[str] = Counter()
    for done, document in enumerate(read_documents(files, options.max_document_bytes), start=1):
        options.report("look", done)
        if not isinstance(document, Document) or document.content_hash in seen:
            continue
        seen.add(document.content_hash)
        if _split_of(document, options.validation_share) == "validation":
            held_out.add(document.name, document.text)
        elif options.tokenizer is None and taken[document.source] < TOKENIZER_SAMPLE_BYTES:
            taken[document.source] += document.size_bytes
            sample.append(document.text)
    return held_out, [text for text in sample if not held_out.repeated_by(text)]


def _accepted(
    files: Iterable[SourceFile], held_out: HeldOutLines, log_path: Path, reasons: Counter[str], options: BuildOptions
) -> Iterator[_Placed]:
    """The documents that stay, each with its split; what is left out is logged and counted."""
    seen: set[str] = set()
    with log_path.open("w", encoding="utf-8") as log:
        for done, item in enumerate(read_documents(files, options.max_document_bytes), start=1):
            options.report("tokenise", done)
            refused = _refusal(item, seen, held_out, options.validation_share)
            if refused is not None:
                reasons[refused.reason.split(":")[0]] += 1
                log.write(json.dumps(refused.__dict__, ensure_ascii=False) + "\n")
            else:
                assert isinstance(item, Document), "only documents pass"
                seen.add(item.content_hash)
                yield _Placed(_split_of(item, options.validation_share), item)


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


def _batches(documents: Iterable[_Placed]) -> Iterator[list[_Placed]]:
    batch: list[_Placed] = []
    batch_bytes = 0
    for placed in documents:
        batch.append(placed)
        batch_bytes += placed.document.size_bytes
        if len(batch) == DOCUMENTS_PER_BATCH or batch_bytes >= BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _encoded(batches: Iterable[list[_Placed]], tokenizer: Tokenizer) -> Iterator[tuple[list[_Placed], Tokens]]:
    """Each batch with its tokens. The encoder does without Python's lock: the next batch is read meanwhile."""
    encoder = BulkEncoder(tokenizer)

    def encode(batch: list[_Placed]) -> Tokens:
        return encoder.encode([placed.document.text for placed in batch])

    with ThreadPoolExecutor(1) as pool:
        running: tuple[list[_Placed], Future[Tokens]] | None = None
        for batch in batches:
            done = (running[0], running[1].result()) if running is not None else None
            running = batch, pool.submit(encode, batch)
            if done is not None:
                yield done
        if running is not None:
            yield running[0], running[1].result()


class _Placed(NamedTuple):
    """A document and where it goes."""

    split: str
    document: Document


class _PartWriter:
    """Texts into Parquet shards, tokens into one file for each split and source; counts both."""

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        (directory / "tokens").mkdir()
        self.token_bytes = token_bytes_for(tokenizer.get_vocab_size())
        self._directory = directory
        self._end_of_text = end_of_text_id(tokenizer)
        self._shards = {split: ShardWriter(directory, split) for split in SPLITS}
        self._tally: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
        self._keys: list[str] = []

    def write(self, batch: list[_Placed], tokens: Tokens) -> None:
        """Append a batch, each document with its tokens."""
        dtype = token_dtype(self.token_bytes)
        for (split, document), own in zip(batch, tokens, strict=True):
            ids = np.append(own, self._end_of_text).astype(dtype)
            with token_path(self._directory, split, document.source).open("ab") as file:
                ids.tofile(file)
            counts = self._tally[split][document.source]
            for index, amount in enumerate((1, document.size_bytes, len(ids))):
                counts[index] += amount
            self._keys.append(f"{split}\0{document.source}\0{document.name}\0{document.content_hash}")
        for split, shard in self._shards.items():
            shard.write([placed.document for placed in batch if placed.split == split])

    def close(self) -> tuple[dict[str, dict[str, PartCounts]], str]:
        """What each source gave to each split, and a digest of all documents."""
        for shard in self._shards.values():
            shard.close()
        parts = {
            split: {
                source: PartCounts(documents=documents, bytes=size, tokens=tokens)
                for source, (documents, size, tokens) in sorted(self._tally[split].items())
            }
            for split in SPLITS
            if split in self._tally
        }
        return parts, hashlib.sha256("\n".join(sorted(self._keys)).encode()).hexdigest()
