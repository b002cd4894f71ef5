"""The bundle that ships: small, proved, honest about itself, and able to read the language it learned."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator

import pytest

from ml_service.common.bundle import CARD_FILE, verify_files
from ml_service.common.settings import PROJECT, Settings
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model, open_session, prove
from ml_service.inference.scoring import score_texts
from ml_service.pipeline.stages import verify_bundle
from ml_service.utils.telemetry import Telemetry

SHIPPED = PROJECT / "data" / "bundle"
CODE = '''"""Copy the lines of a file that are not empty."""

import os
import sys


def main(argv=None):
    if argv is None:
        argv = sys.argv[1:]
    for path in argv:
        if not os.path.exists(path):
            print("no such file:", path, file=sys.stderr)
            continue
        with open(path, encoding="utf-8") as f:
            for line in f:
                if line.strip():
                    sys.stdout.write(line)


if __name__ == "__main__":
    main()
'''


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = open_live_model(SHIPPED, Settings(slots=2, threads=1), Telemetry()).engine
    yield engine
    engine.stop()


def test_it_proves_itself_and_is_small() -> None:
    verify_bundle(SHIPPED)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 15_000_000


def test_it_proves_itself_in_the_torch_runtime_too() -> None:
    from ml_service.common.bundle import load_golden

    session = open_session(SHIPPED, Settings(slots=1, runtime="torch", threads=1))
    prove(session, load_golden(SHIPPED))
    session.close()


def test_its_card_says_how_it_was_made_and_how_good_it_is() -> None:
    manifest = verify_files(SHIPPED)
    card = (SHIPPED / CARD_FILE).read_text(encoding="utf-8")
    for fact in ("ml-service train", "ml-service corpus build", manifest.dataset_fingerprint, manifest.training_commit):
        assert fact in card
    assert not manifest.training_commit.endswith("-dirty")
    assert not manifest.commit.endswith("-dirty")
    assert manifest.metrics["validation_stdlib_bits_per_byte"] <= 1.30


def test_it_reads_code_better_than_the_same_characters_in_disorder(engine: Engine) -> None:
    characters = list(CODE)
    random.Random(0).shuffle(characters)

    async def nats() -> list[float]:
        return [found.nats async for _, found in score_texts(engine, [CODE, "".join(characters)], str)]

    in_order, in_disorder = (each / math.log(2) / len(CODE.encode()) for each in asyncio.run(nats()))
    assert in_order < 1.6
    assert in_disorder > 3 * in_order
