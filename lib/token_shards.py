"""A data set on disk: Parquet shards of documents, packed token files, a manifest with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from lib.files import staged_directory, write_json
from lib.near_duplicates import HeldOutLines
from lib.text_data import Document, Rejected, SourceFile, read_documents, split_of
from lib.tokenizer import end_of_text_id, save_tokenizer, train_byte_level_bpe

MANIFEST_FILE = "dataset.json"
REJECTED_FILE = "rejected.jsonl"
TOKENIZER_FILE = "tokenizer.json"
SPLITS = ("train", "validation")
FORMAT_VERSION = 1
DOCUMENTS_PER_BATCH = 256
SHARD_BYTES = 64 << 20
TOKENIZER_SAMPLE_BYTES = 12_000_000
_COLUMNS = pa.schema([("source", pa.string()), ("name", pa.string()), ("hash", pa.string()), ("text", pa.string())])

Report = Callable[[str, int], None]
"""Told of progress: (name of the phase, documents done in it)."""


class PartCounts(BaseModel):
    """What one source gave to one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    documents: int
    bytes: int
    tokens: int


class DatasetManifest(BaseModel):
    """What a data set holds; `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format_version: int
    fingerprint: str
    """SHA-256 over the sorted (split, source, name, content hash) of all documents and the tokenizer's hash."""
    tokenizer_sha256: str
    vocabulary_size: int
    token_bytes: int
    """2 (uint16) or 4 (uint32): the width of a token in the packed files."""
    validation_share: float
    parts: dict[str, dict[str, PartCounts]]
    """split → source → counts."""
    rejected: dict[str, int]
    """reason → count; each one is named in `rejected.jsonl`."""


@dataclass(frozen=True)
class PackedTokens:
    """The tokens of one part, one document after the other, each ended by the end-of-text token; memory-mapped."""

    source: str
    tokens: npt.NDArray[np.unsignedinteger]
    """Shape (tokens,), read-only."""


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


def load_manifest(directory: Path) -> DatasetManifest:
    """Read `dataset.json`. Raises FileNotFoundError in words where there is no data set."""
    path = directory / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is no data set: it has no {MANIFEST_FILE}")
    return DatasetManifest.model_validate_json(path.read_text(encoding="utf-8"))


def load_tokens(directory: Path, split: str) -> list[PackedTokens]:
    """Map the packed tokens of one split, sources in alphabetical order."""
    manifest = load_manifest(directory)
    return [
        PackedTokens(
            source, np.memmap(_token_path(directory, split, source), _token_dtype(manifest.token_bytes), mode="r")
        )
        for source in sorted(manifest.parts.get(split, {}))
    ]


def iterate_documents(directory: Path, split: str) -> Iterator[Document]:
    """The documents of one split, from its Parquet shards, in order."""
    for shard in sorted(directory.glob(f"{split}-*.parquet")):
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=DOCUMENTS_PER_BATCH):
            for row in batch.to_pylist():
                yield Document(row["source"], row["name"], row["text"], row["hash"])


def _hold_out(files: Iterable[SourceFile], options: BuildOptions) -> HeldOutLines:
    held_out, seen = HeldOutLines(), set()
    for done, document in enumerate(read_documents(files, options.max_document_bytes), start=1):
        options.report("hold out", done)
        if isinstance(document, Document) and document.content_hash not in seen:
            seen.add(document.content_hash)
            if split_of(document.content_hash, options.validation_share) == "validation":
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
                writers[split_of(item.content_hash, options.validation_share)].add(item)
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
    if split_of(item.content_hash, validation_share) == "train" and (twin := held_out.repeated_by(item.text)):
        return Rejected(item.source, item.name, f"near duplicate of held-out: {twin}")
    return None


class _ShardWriter:
    """Parquet files of about 64 MiB of text each, `{split}-{index:05d}.parquet`; none where there is no document."""

    def __init__(self, directory: Path, split: str) -> None:
        self._directory, self._split = directory, split
        self._index = 0
        self._rows: list[dict[str, str]] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, document: Document) -> None:
        self._rows.append(
            {"source": document.source, "name": document.name, "hash": document.content_hash, "text": document.text}
        )
        self._bytes += document.size_bytes
        if len(self._rows) >= DOCUMENTS_PER_BATCH:
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
        self._rows = []


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
                ids = np.array([*encoding.ids, end_of_text], dtype=_token_dtype(token_bytes))
                with _token_path(directory, split, document.source).open("ab") as file:
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
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _token_path(directory: Path, split: str, source: str) -> Path:
    return directory / "tokens" / f"{split}-{source}.bin"


def _token_dtype(token_bytes: int) -> type[np.unsignedinteger]:
    return np.uint16 if token_bytes == 2 else np.uint32
