"""Scoring through the engine: equal to PyTorch, whatever shares the steps, whatever was read before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.scores import rolling_windows
from ml_service.common.errors import ModelFailure
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine, EngineOptions
from ml_service.inference.live import open_live_model
from ml_service.inference.operators import Logits
from ml_service.inference.scoring import score_continuation, score_rolling, score_texts
from ml_service.inference.sequence import Likelihood
from ml_service.inference.session import Row
from ml_service.utils.telemetry import Telemetry
from tests.fakes import CountingSession

TEXTS = ["def value_total(count):\n    return count", "x", "", "naïve, 日本, 🙂 " * 30, "import name\n" * 40]


def opened(bundle: Path, **changes: object) -> Engine:
    settings = {"slots": 4, "prefill_chunk": 16, "threads": 1, "prefix_cache_mib": 4} | changes
    return open_live_model(bundle, Settings(**settings), Telemetry()).engine  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine(bundle_fp32: Path) -> Iterator[Engine]:
    engine = opened(bundle_fp32)
    yield engine
    engine.stop()


def of_pytorch(bundle: Path, ids: Sequence[int], context: int) -> tuple[float, int]:
    """Nats and hits of the tokens behind the context, all in one pass."""
    from ml_service.common.bundle import load_architecture
    from ml_service.inference.torch_session import load_model

    model = load_model(bundle, load_architecture(bundle)).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, context - 1 : -1].double()
    targets = torch.tensor(ids[context:])
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return nats, int((logits.argmax(-1) == targets).sum())


def test_a_text_is_as_likely_as_pytorch_says(bundle_fp32: Path, engine: Engine) -> None:
    ids = engine.tokens_of(TEXTS[0])
    nats, hits = of_pytorch(bundle_fp32, [0, *ids], 1)
    found = asyncio.run(score_rolling(engine, ids, "test"))
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert (found.tokens, found.hits) == (len(ids), hits)


def test_both_runtimes_agree(bundle_fp32: Path, engine: Engine) -> None:
    plain = opened(bundle_fp32, runtime="torch")
    ids = engine.tokens_of("".join(TEXTS))
    ours, theirs = (asyncio.run(score_rolling(each, ids, "test")) for each in (engine, plain))
    plain.stop()
    assert ours.nats == pytest.approx(theirs.nats, rel=1e-5)


def test_neighbours_and_pieces_change_nothing(bundle: Path) -> None:
    engines = [opened(bundle), opened(bundle, slots=1, prefill_chunk=64)]
    texts = random.Random(0).choices(TEXTS, k=30)

    async def together(engine: Engine) -> list[Likelihood]:
        parameters = GenerationParameters(max_new_tokens=20)
        talk = [asyncio.ensure_future(engine.complete([5, 6, n], parameters, "talk")) for n in range(3)]
        found = [likelihood async for _, likelihood in score_texts(engine, texts, str)]
        await asyncio.gather(*talk)
        return found

    alone = [asyncio.run(score_rolling(engines[0], engines[0].tokens_of(text), "test")) for text in texts]
    for engine in engines:
        found = asyncio.run(together(engine))
        assert [each.nats for each in found] == pytest.approx([each.nats for each in alone], rel=1e-6)
        assert [each.hits for each in found] == [each.hits for each in alone]
        engine.stop()


def test_what_leads_up_to_several_continuations_is_read_once(bundle_fp32: Path, engine: Engine) -> None:
    context = engine.tokens_of(TEXTS[3])[:40]
    options = [engine.tokens_of(text) for text in (" 0", " one", " total value")]

    async def score() -> list[Likelihood]:
        return list(await asyncio.gather(*(score_continuation(engine, context, each, "test") for each in options)))

    twice = [asyncio.run(score()) for _ in range(2)]
    assert twice[0] == twice[1]
    for found, option in zip(twice[0], options, strict=True):
        nats, hits = of_pytorch(bundle_fp32, [*context, *option], len(context))
        assert (found.nats, found.hits) == (pytest.approx(nats, rel=1e-5), hits)


def test_a_context_that_is_too_long_counts_from_its_end(bundle_fp32: Path, engine: Engine) -> None:
    length = engine.architecture.context_length
    context, continuation = [7, 8, 9] * length, [10, 11, 12]
    found = asyncio.run(score_continuation(engine, context, continuation, "test"))
    nats, _ = of_pytorch(bundle_fp32, [*context, *continuation][-length - 1 :], length - 2)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    whole = asyncio.run(score_continuation(engine, [], [5] * (length + 3), "test"))
    assert whole.tokens == length


def test_every_token_of_a_long_text_counts_once(engine: Engine) -> None:
    ids = [3 + place % 50 for place in range(5 * engine.architecture.context_length + 7)]
    assert asyncio.run(score_rolling(engine, ids, "test")).tokens == len(ids)
    windows = list(rolling_windows(ids, 0, engine.architecture.context_length))
    assert len(windows[-1].inputs) == engine.architecture.context_length


def test_logits_that_are_not_finite_fail_their_own_text_only(engine: Engine) -> None:
    class Broken(CountingSession):
        def run(self, rows: Sequence[Row]) -> Logits:
            logits = super().run(rows)
            logits[[row_ends for row_ends, row in _ends(rows) if 13 in row.token_ids], 5] = np.nan
            return logits

    broken = Engine(Broken(), engine.vocabulary, EngineOptions(), Telemetry())

    async def both() -> list[Likelihood | BaseException]:
        scores = (score_rolling(broken, ids, "test") for ids in ([1, 2, 3, 4], [1, 13, 2, 3]))
        return list(await asyncio.gather(*scores, return_exceptions=True))

    good, bad = asyncio.run(both())
    broken.stop()
    assert isinstance(good, Likelihood) and good.hits == 4
    assert isinstance(bad, ModelFailure)


def _ends(rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    end = 0
    for row in rows:
        end += len(row.token_ids) if row.wants_all else 1
        yield end - 1, row
