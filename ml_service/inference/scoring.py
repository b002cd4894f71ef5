"""The likelihood of texts under a model, through the engine that serves it: many at a time share its steps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

from lib.in_order import map_in_order
from lib.scores import Window, rolling_windows
from ml_service.common.errors import Overloaded
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.patience import when_there_is_room
from ml_service.inference.sequence import Likelihood
from ml_service.inference.work import Completion, Work

Item = TypeVar("Item")
_ONLY_READS = GenerationParameters(max_new_tokens=0)
JUDGING_CHUNK = 1024
"""Tokens of a step of an engine that only judges: nobody waits there for a next token, and long steps cost less."""


async def score_rolling(engine: Engine, token_ids: Sequence[int], request_id: str) -> Likelihood:
    """Of a whole text, one window after the other (`rolling_windows`): each token once, the first behind the prefix.

    Raises ModelFailure where the model fails at it.
    """
    architecture = engine.architecture
    windows = rolling_windows(token_ids, architecture.end_of_text_id, architecture.context_length)
    total = Likelihood(0.0, 0, 0)
    for window in windows:
        total += await _score(engine, window, request_id)
    return total


async def score_continuation(
    engine: Engine, context: Sequence[int], continuation: Sequence[int], request_id: str
) -> Likelihood:
    """Of a continuation behind its context; of a context that is too long the end counts, as in the harness."""
    if not continuation:
        return Likelihood(0.0, 0, 0)
    before = list(context) or [engine.architecture.end_of_text_id]
    inputs = [*before, *continuation[:-1]][-engine.architecture.context_length :]
    return await _score(engine, Window(inputs, list(continuation[-len(inputs) :])), request_id)


async def score_texts(
    engine: Engine, items: Iterable[Item], text_of: Callable[[Item], str]
) -> AsyncGenerator[tuple[Item, Likelihood], None]:
    """The likelihood of each item's text, in order; as many at a time as fill the engine."""

    async def score(item: Item) -> tuple[Item, Likelihood]:
        return item, await score_rolling(engine, engine.tokens_of(text_of(item)), "scoring")

    async with aclosing(map_in_order(score, items, 2 * engine.slots)) as scores:
        async for scored in scores:
            yield scored


def encode_pair(engine: Engine, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Both as tokens, cut where the harness cuts: spaces that end the context belong to what follows."""
    bare = context.rstrip()
    whole, before = engine.tokens_of(context + continuation), engine.tokens_of(bare)
    return before, whole[len(before) :]


async def complete_patiently(
    engine: Engine, prompt_ids: list[int], parameters: GenerationParameters, request_id: str
) -> Completion:
    """Continue a prompt; where all places are taken it waits: who judges has time."""
    return await _patiently(engine, Work([prompt_ids], parameters, request_id))


async def _score(engine: Engine, window: Window, request_id: str) -> Likelihood:
    completion = await _patiently(engine, Work([window.inputs], _ONLY_READS, request_id, window=window))
    if completion.echo.likelihood is None:
        raise Overloaded("the time was up before the text was scored")
    return completion.echo.likelihood


async def _patiently(engine: Engine, work: Work) -> Completion:
    (completion,) = await when_there_is_room(lambda: engine.complete_all(work))
    return completion
