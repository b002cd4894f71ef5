"""Rows that are tokenised and padded already (`input_ids`, `labels`), packed into a data set without their padding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from lib.files import staged_directory, write_json
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
from lib.tokenizer import bytes_of_tokens, save_tokenizer

SOURCE = "tokenised"
IGNORED_LABEL = -100
_ROWS_PER_BATCH = 1024


def pack_tokenised(files: list[Path], output: Path, tokenizer: Tokenizer, validation_rows: int) -> DatasetManifest:
    """Take what is a target of each row, in order; the first `validation_rows` rows are held out.

    Memory is flat in the number of rows. `output` appears complete or not at all. Raises ValueError where a file has
    other columns, a token is not the tokenizer's, or one of the splits would be empty.
    """
    vocabulary_size = tokenizer.get_vocab_size()
    size_of = np.array(bytes_of_tokens(tokenizer), np.int64)
    token_bytes = token_bytes_for(vocabulary_size)
    counts = {split: [0, 0, 0] for split in SPLITS}
    digest = hashlib.sha256()
    with staged_directory(output) as directory:
        (directory / "tokens").mkdir()
        paths = {split: token_path(directory, split, SOURCE) for split in SPLITS}
        with paths["train"].open("wb") as train, paths["validation"].open("wb") as validation:
            for number, ids in enumerate(_rows(files, vocabulary_size)):
                split = "validation" if number < validation_rows else "train"
                raw = ids.astype(token_dtype(token_bytes)).tobytes()
                (validation if split == "validation" else train).write(raw)
                digest.update(raw)
                for index, amount in enumerate((1, int(size_of[ids].sum()), len(ids))):
                    counts[split][index] += amount
        if empty := [split for split in SPLITS if counts[split][2] == 0]:
            raise ValueError(f"no row is left for {empty[0]}: there are {sum(c[0] for c in counts.values()):,} rows")
        tokenizer_sha256 = save_tokenizer(tokenizer, directory / TOKENIZER_FILE)
        manifest = DatasetManifest(
            format_version=FORMAT_VERSION,
            fingerprint=hashlib.sha256(
                f"{digest.hexdigest()}:{validation_rows}:{tokenizer_sha256}".encode()
            ).hexdigest(),
            tokenizer_sha256=tokenizer_sha256,
            vocabulary_size=vocabulary_size,
            token_bytes=token_bytes,
            validation_share=counts["validation"][0] / sum(c[0] for c in counts.values()),
            parts={s: {SOURCE: PartCounts(documents=d, bytes=b, tokens=t)} for s, (d, b, t) in counts.items()},
            rejected={},
        )
        write_json(directory / MANIFEST_FILE, manifest.model_dump())
    return manifest


def _rows(files: list[Path], vocabulary_size: int) -> Iterator[npt.NDArray[np.int64]]:
    for path in files:
        file = pq.ParquetFile(path)
        if missing := {"input_ids", "labels"} - set(file.schema_arrow.names):
            raise ValueError(f"{path.name} has no column {sorted(missing)[0]!r}: it holds no tokenised rows")
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=["input_ids", "labels"]):
            for ids, labels in zip(batch.column(0), batch.column(1), strict=True):
                row = np.asarray(ids.values, np.int64)
                targets = row[np.asarray(labels.values, np.int64) != IGNORED_LABEL]
                if targets.size and not 0 <= targets.min() <= targets.max() < vocabulary_size:
                    raise ValueError(f"{path.name} has token {targets.max()}: the tokenizer has {vocabulary_size:,}")
                yield targets
