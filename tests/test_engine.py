"""The engine with a real model: an answer never depends on its neighbours."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Sequence as Many
from pathlib import Path

import pytest

from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import TOKENIZER_FILE
from ml_service.common.errors import BadRequest, ModelFailure, Overloaded
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.constraint import Grammars
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model, open_session
from ml_service.inference.operators import Logits
from ml_service.inference.sampler import Sampler
from ml_service.inference.session import Row, prefill
from ml_service.inference.work import Completion, Work
from ml_service.utils.telemetry import Telemetry

REQUESTS = 24


def engine_of(bundle: Path, runtime: str = "onnx", **changes: int) -> Engine:
    chosen = {"slots": 4, "max_waiting": REQUESTS, "prefill_chunk": 16, "threads": 1} | changes
    settings = Settings(bundle=bundle, runtime=runtime, **chosen)  # type: ignore[arg-type]
    return open_live_model(bundle, settings, Telemetry()).engine


def requests(seed: int) -> list[tuple[str, GenerationParameters]]:
    """Prompts that begin alike or not, short and long, repetitive or not, with all kinds of parameters."""
    source = random.Random(seed)
    made = []
    for _ in range(REQUESTS):
        beginning = source.choice(["", "def value_total(count, name):\n    return ", "for for for for for for "])
        words = source.choices(["def", "value", "total(", "for", "in", "日本", "return"], k=source.randint(0, 14))
        parameters = GenerationParameters(
            max_new_tokens=source.randint(0, 30),
            temperature=source.choice([0.0, 0.0, 0.0, 0.7, 1.5]),
            top_k=source.choice([0, 20]),
            top_p=source.choice([1.0, 0.9]),
            repetition_penalty=source.choice([1.0, 1.0, 1.2]),
            logit_bias=source.choice([{}, {}, {40: 2.0, 41: -100.0}]),
            stop=source.choice([[], ["e"]]),
            ignore_eos=source.choice([True, False]),
            seed=source.randint(0, 1000),
            regex=source.choice([None, None, None, "[a-z ]{3,12}"]),
        )
        made.append((beginning + " ".join(words), parameters))
    return made


async def answer(engine: Engine, prompt: str, parameters: GenerationParameters) -> tuple[list[int], str]:
    completion = await engine.complete(await engine.encode(prompt), parameters, "x")
    return [choice.token_id for choice in completion.choices], completion.text


class Plainly:
    """The reference: one request at a time, and for each token everything is read again: no cache, no batch."""

    def __init__(self, bundle: Path) -> None:
        self._session = open_session(bundle, Settings(slots=1, threads=1, prefill_chunk=64))
        self._tokenizer = load_tokenizer(bundle / TOKENIZER_FILE)
        architecture = self._session.architecture
        self._end = architecture.end_of_text_id
        self._grammars = Grammars(self._tokenizer, architecture.vocabulary_size, self._end)

    def answer(self, prompt: str, parameters: GenerationParameters) -> tuple[list[int], str]:
        """The tokens that are shown, and the text."""
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids or [self._end]
        sampler, shown, text = Sampler(parameters, parameters.seed or 0), [], ""
        constraint = self._grammars.constraint(parameters) if parameters.regex else None
        while len(shown) < parameters.max_new_tokens and len(ids) < self._session.architecture.context_length:
            logits_V = prefill(self._session, 0, ids)
            token_id = sampler.choose(logits_V, ids, constraint.allowed() if constraint else None).token_id
            if token_id == self._end and not parameters.ignore_eos:
                break
            ids.append(token_id)
            shown.append(token_id)
            text = self._tokenizer.decode(shown, skip_special_tokens=True)
            if found := [text.index(stop) for stop in parameters.stop if stop in text]:
                return shown, text[: min(found)]
            if constraint is not None:
                constraint.accept(token_id)
                if constraint.is_complete:
                    break
        return shown, text


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("seed", range(4))
def test_any_mix_gives_each_request_what_it_gets_alone(
    bundle: Path, bundle_fp32: Path, precision: str, seed: int
) -> None:
    directory = bundle if precision == "int8" else bundle_fp32
    plain = Plainly(directory)
    clever = engine_of(directory, slots=6, prefix_cache_mib=8, lookup_rows=16, prefill_chunk=16)

    async def all_of_them() -> None:
        wanted = requests(seed)
        alone = [plain.answer(*request) for request in wanted]
        left = [asyncio.create_task(answer(clever, *request)) for request in wanted[:3]]
        together = [asyncio.create_task(answer(clever, *request)) for request in wanted]
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        assert [await task for task in together] == alone
        assert [await answer(clever, *request) for request in wanted] == alone, "with all beginnings known"
        while clever.busy:  # those who left are noticed within a step
            await asyncio.sleep(0.001)

    asyncio.run(all_of_them())
    clever.stop()


def test_one_who_closes_the_stream_frees_the_place(bundle: Path) -> None:
    engine = engine_of(bundle, slots=1, max_waiting=0)

    async def leave() -> None:
        for _ in range(20):
            ids = await engine.encode("def value")
            stream = engine.stream(ids, GenerationParameters(max_new_tokens=50), "x")
            await anext(stream)
            with pytest.raises(Overloaded):
                await anext(engine.stream(ids, GenerationParameters(), "y"))
            await stream.aclose()
            while engine.busy:
                await asyncio.sleep(0.001)

    asyncio.run(leave())
    engine.stop()


def test_a_late_reader_of_a_stream_that_failed_gets_what_came_before(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(bundle)
    session, failing, runs = engine._loop._session, threading.Event(), itertools.count()
    run = session.run

    def fail_later(rows: Many[Row]) -> Logits:
        if next(runs) < 3:
            return run(rows)
        failing.set()
        raise ModelFailure("the runtime refused the input")

    monkeypatch.setattr(session, "run", fail_later)

    async def read_late() -> None:
        ids = await engine.encode("def value")
        stream = engine.stream_all(Work([ids], GenerationParameters(max_new_tokens=30, ignore_eos=True), "x"))
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert failing.wait(10), "the engine never came to the fourth step"  # meanwhile this event loop stands still
        engine.stop()
        told = Completion()
        for _, event in await first:
            told.add(event)
        assert len(told.choices) == 3
        with pytest.raises(ModelFailure):
            await anext(stream)

    asyncio.run(read_late())


def test_both_runtimes_answer_alike(bundle_fp32: Path) -> None:
    answers = []
    for runtime in ("onnx", "torch"):
        engine = engine_of(bundle_fp32, runtime)

        async def ask(engine: Engine = engine) -> list[tuple[list[int], str]]:
            return [await answer(engine, *request) for request in requests(3)[:8]]

        answers.append(asyncio.run(ask()))
        engine.stop()
    assert answers[0] == answers[1]


def test_prompts_are_measured_before_they_cost_anything(bundle: Path) -> None:
    engine = engine_of(bundle)

    async def check() -> None:
        assert await engine.encode("") == [engine.architecture.end_of_text_id]
        special = await engine.encode("<|endoftext|>")
        assert engine.architecture.end_of_text_id not in special
        for text in ("ab cd " * 40, "x" * 5_000_000):
            with pytest.raises(BadRequest, match="the model's context is 64"):
                await engine.encode(text)
        longest = await engine.encode("a" * 9)
        completion = await engine.complete((longest * 64)[:63], GenerationParameters(), "x")
        assert completion.end.usage.completion_tokens == 1
        assert len(completion.choices) <= 1

    asyncio.run(check())
    engine.stop()
