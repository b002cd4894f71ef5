"""Our engine, from the project's own environment, as a route asks it: an asyncio task for each client.

Settings: as many slots as the widest workload has clients, a context that holds its longest sequence, 2 threads, all
else as it ships; look-up decoding off, since random weights repeat themselves as no text does. Where a workload forbids
reuse, an engine without a prefix cache answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Literal

from benchmarks.serving.workers.protocol import Limits, Load, Request, main
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.inference.sequence import Delta
from ml_service.pipeline.stages import import_checkpoint
from ml_service.utils.telemetry import Telemetry

Precision = Literal["int8", "int4"]
PRECISIONS: dict[int, Precision] = {8: "int8", 4: "int4"}


class Ours:
    """An engine with and one without prefix cache, each opened when first needed."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits
        self._engines: dict[bool, Engine] = {}

    def generate(self, load: Load) -> list[list[int]]:
        """As many clients as the load says take requests from one list."""
        return asyncio.run(_answer_all(self._engine(load.reuse != "off"), load))

    def _engine(self, has_prefix_cache: bool) -> Engine:
        if has_prefix_cache not in self._engines:
            settings = Settings(
                bundle=self._directory,
                slots=self._limits.slots,
                threads=self._limits.threads,
                context=self._limits.context,
                prefix_cache_mib=None if has_prefix_cache else 0,
                lookup_rows=0,
            )
            self._engines[has_prefix_cache] = open_live_model(self._directory, settings, Telemetry()).engine
        return self._engines[has_prefix_cache]


async def _answer_all(engine: Engine, load: Load) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in load.requests]
    waiting = iter(enumerate(load.requests))
    await asyncio.gather(*(_client(engine, waiting, answers) for _ in range(load.concurrency)))
    return answers


async def _client(engine: Engine, waiting: Iterator[tuple[int, Request]], answers: list[list[int]]) -> None:
    for index, request in waiting:
        parameters = GenerationParameters(max_new_tokens=request.new_tokens, temperature=0, ignore_eos=True)
        async with aclosing(engine.stream(request.prompt, parameters, f"serving-{index}")) as events:
            async for event in events:
                if isinstance(event, Delta):
                    answers[index].extend(choice.token_id for choice in event.choices)


def convert(checkpoint: Path, directory: Path, bits: int) -> None:
    """Through the verb that imports checkpoints."""
    import_checkpoint(checkpoint, directory, PRECISIONS[bits], "made for this benchmark")


def open_model(directory: Path, limits: Limits) -> Ours:
    """The engines come with the first request of their kind."""
    return Ours(directory, limits)


if __name__ == "__main__":
    main(convert, open_model)
