"""How good a bundle is: bits per byte on held-out standard-library files, through the engine, beside xz."""

from __future__ import annotations

import argparse
import asyncio
import lzma
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lib.corpora import standard_library
from lib.scores import Score
from lib.text_data import Document, read_documents, split_of
from ml_service.common.bundle import verify_files
from ml_service.common.settings import Settings
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.inference.scoring import score_texts
from ml_service.utils.telemetry import Telemetry

VALIDATION_SHARE = 0.05


def held_out_documents() -> Iterator[Document]:
    """The files of the running interpreter's standard library that no training run has seen."""
    seen = set()
    for item in read_documents(standard_library()):
        if isinstance(item, Document) and item.content_hash not in seen:
            seen.add(item.content_hash)
            if split_of(item.content_hash, VALIDATION_SHARE) == "validation":
                yield item


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--runtime", choices=("onnx", "torch"), default="onnx", help="what runs the model")
    arguments = parser.parse_args()
    manifest = verify_files(arguments.bundle)
    engine = open_live_model(arguments.bundle, Settings(runtime=arguments.runtime), Telemetry()).engine
    documents = list(held_out_documents())
    started, total = time.perf_counter(), Score(0.0, 0, 0)
    scores = asyncio.run(_scored(engine, documents))
    total = sum((score for score, _ in scores), total)
    seconds = time.perf_counter() - started
    engine.stop()
    texts = [document.text.encode() for document in documents]
    print(f"bundle               {manifest.experiment}, {manifest.parameters:,} parameters, {manifest.precision}")
    print(f"runtime              {arguments.runtime}, {total.tokens / seconds:,.0f} tokens a second scored")
    print(f"held-out files       {len(documents)} with {total.bytes:,} bytes, {total.tokens:,} tokens")
    print(f"loss                 {total.loss:.4f} nats a token")
    print(f"bits per byte        {total.bits_per_byte:.4f}   (byte perplexity {total.byte_perplexity:.4f})")
    print(f"xz -9e, each file    {8 * sum(map(_xz_bytes, texts)) / total.bytes:.4f}")
    print(f"xz -9e, all in one   {8 * _xz_bytes(b''.join(texts)) / total.bytes:.4f}")
    by_score = sorted(scores, key=lambda pair: pair[0].bits_per_byte)
    for label, (score, document) in (("best file", by_score[0]), ("worst file", by_score[-1])):
        print(f"{label:<20} {score.bits_per_byte:.4f}   {document.name}")


async def _scored(engine: Engine, documents: list[Document]) -> list[tuple[Score, Document]]:
    scores = []
    with tqdm(total=len(documents), desc="score", unit=" files") as bar:
        async for document, found in score_texts(engine, documents, lambda document: document.text):
            scores.append((Score(found.nats, found.tokens, document.size_bytes), document))
            bar.update()
    return scores


def _xz_bytes(data: bytes) -> int:
    """What `xz -9e` makes of it, container and checksum left out."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))


if __name__ == "__main__":
    main()
