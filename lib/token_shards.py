"""A data set on disk: Parquet shards of documents, packed tokens that are memory-mapped, a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

MANIFEST_FILE = "dataset.json"
TOKENIZER_FILE = "tokenizer.json"
SPLITS = ("train", "validation")
FORMAT_VERSION = 1


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
            source, np.memmap(token_path(directory, split, source), token_dtype(manifest.token_bytes), mode="r")
        )
        for source in sorted(manifest.parts.get(split, {}))
    ]


def token_path(directory: Path, split: str, source: str) -> Path:
    """Where the tokens of one part lie."""
    return directory / "tokens" / f"{split}-{source}.bin"


def token_bytes_for(vocabulary_size: int) -> int:
    """How wide a token is stored: 2 bytes where all of the vocabulary has room in them, else 4."""
    return 2 if vocabulary_size <= 1 << 16 else 4


def token_dtype(token_bytes: int) -> type[np.unsignedinteger]:
    """How a token is stored that takes so many bytes."""
    return np.uint16 if token_bytes == 2 else np.uint32
