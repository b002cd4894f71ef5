"""Asks a target under a load and notes what happened; Ctrl-C ends it, and what was measured so far counts."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ml_service.common.errors import Unavailable
from ml_service.pipeline.load.outcomes import Measurement, Outcome
from ml_service.pipeline.load.target import AskFailed, Openable, Target
from ml_service.pipeline.load.workload import Ask, Load, Span, Workload, arrival_times

_PAUSE_AFTER_FAILURE_S = 0.1
"""A client that was refused comes back a little later; one that came back at once would only measure refusals."""
_PROBE_WORDS = 64
"""Enough to know how many tokens a word has. A word seldom has more than four: the probe fits where a prompt fits."""


def measure(
    openable: Openable,
    workload: Workload,
    load: Load,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> Measurement:
    """Ask once to see whether anybody answers, then to warm up, then as the load says.

    Raises Unavailable, in words, where the first request is not answered. After Ctrl-C the measurement holds the
    requests that were finished by then.
    """
    run = _Run(workload, load, on_outcome)
    is_interrupted = False
    try:
        asyncio.run(run.run(openable))
    except KeyboardInterrupt:
        is_interrupted = True
    return run.measurement(is_interrupted)


@dataclass
class _Run:
    """One measurement under way."""

    workload: Workload
    load: Load
    on_outcome: Callable[[Outcome], None]
    outcomes: list[Outcome] = field(default_factory=list)
    began_at: float = field(default_factory=time.perf_counter)
    cpu_began_s: float = field(default_factory=time.process_time)

    async def run(self, openable: Openable) -> None:
        async with openable.open() as target:
            asks = await _probe(target, self.workload)
            await self._warm_up(target, asks)
            self.began_at, self.cpu_began_s = time.perf_counter(), time.process_time()
            await (self._closed_loop if self.load.rate is None else self._open_loop)(target, asks)

    def measurement(self, is_interrupted: bool) -> Measurement:
        seconds = max((outcome.ended_s for outcome in self.outcomes), default=0.0)
        cpu_s = time.process_time() - self.cpu_began_s
        return Measurement(self.load, self.outcomes, seconds, cpu_s, is_interrupted)

    async def _warm_up(self, target: Target, asks: Callable[[int], Ask]) -> None:
        """Not counted, and neither are its failures: the first request has shown that somebody answers."""
        clients = min(self.load.warmup, self.load.concurrency or self.load.warmup)
        waiting = iter(range(self.load.warmup))

        async def client() -> None:
            for index in waiting:
                await self._answer(target, asks(-1 - index), 0.0)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    async def _closed_loop(self, target: Target, asks: Callable[[int], Ask]) -> None:
        """So many clients; each asks again as soon as it has its answer."""
        indexes = iter(range(self.load.requests)) if self.load.requests is not None else itertools.count()
        deadline_s = self.load.seconds or math.inf

        async def client() -> None:
            for index in indexes:
                ask = asks(index)
                if self._now_s() >= deadline_s:
                    return
                outcome = await self._answer(target, ask, self._now_s())
                self._note(outcome)
                if outcome.failure is not None:
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

        assert self.load.concurrency is not None
        async with asyncio.TaskGroup() as group:
            for _ in range(self.load.concurrency):
                group.create_task(client())

    async def _open_loop(self, target: Target, asks: Callable[[int], Ask]) -> None:
        """Requests come when they come, however many are under way."""
        assert self.load.rate is not None

        async def request(ask: Ask, due_s: float) -> None:
            self._note(await self._answer(target, ask, due_s))

        async with asyncio.TaskGroup() as group:
            arrivals = itertools.islice(arrival_times(self.load.rate, self.workload.seed), self.load.requests)
            for index, due_s in enumerate(arrivals):
                if due_s >= (self.load.seconds or math.inf):
                    break
                ask = asks(index)
                await asyncio.sleep(due_s - self._now_s())
                group.create_task(request(ask, due_s))

    async def _answer(self, target: Target, ask: Ask, started_s: float) -> Outcome:
        outcome = Outcome(ask.index, started_s)
        try:
            used = await target.answer(ask, lambda: outcome.arrivals_s.append(self._now_s()))
            outcome.prompt_tokens, outcome.completion_tokens = used.prompt_tokens, used.completion_tokens
            outcome.cached_tokens = used.cached_tokens
        except AskFailed as failure:
            outcome.failure = failure.reason
        outcome.ended_s = self._now_s()
        return outcome

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.on_outcome(outcome)

    def _now_s(self) -> float:
        return time.perf_counter() - self.began_at


async def _probe(target: Target, workload: Workload) -> Callable[[int], Ask]:
    """Ask once, and learn how many tokens a word has where prompts are text; returns what makes the requests."""
    takes_words = workload.words or not target.takes_ids
    words = max(1, min(_PROBE_WORDS, workload.prompt_tokens.most // 4))
    short = replace(workload, prompt_tokens=Span(words, words), new_tokens=Span(1, 1), shared_prefix=0.0)
    try:
        used = await target.answer(short.ask(-1, 1.0 if takes_words else None), lambda: None)
    except AskFailed as failure:
        raise Unavailable(str(failure)) from failure
    tokens_per_word = used.prompt_tokens / words if takes_words else None
    return lambda index: workload.ask(index, tokens_per_word)
