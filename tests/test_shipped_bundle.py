"""The bundle that ships: small, proved, honest about itself, and able to read the language it learned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import CARD_FILE, TOKENIZER_FILE, verify_files
from ml_service.common.settings import PROJECT, Settings
from ml_service.inference.live import open_session, prove
from ml_service.inference.scoring import score_text
from ml_service.inference.session import Session
from ml_service.pipeline.stages import verify_bundle

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
def session() -> Iterator[Session]:
    session = open_session(SHIPPED, Settings(slots=1, threads=1))
    yield session
    session.close()


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


def test_it_reads_code_better_than_the_same_characters_in_disorder(session: Session) -> None:
    tokenizer = load_tokenizer(Path(SHIPPED / TOKENIZER_FILE))
    characters = list(CODE)
    random.Random(0).shuffle(characters)
    scores = []
    for text in (CODE, "".join(characters)):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        scores.append(score_text(session, ids, len(text.encode())).bits_per_byte)
    assert scores[0] < 1.6
    assert scores[1] > 3 * scores[0]
