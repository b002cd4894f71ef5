"""What a long prompt does to those who are being answered: the time between their tokens, without and beside it."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path

import numpy as np

from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.live import open_live_model
from ml_service.utils.telemetry import Telemetry

WARM_PIECES = 20


async def measure(engine: Engine, running: int, prompt_tokens: int) -> tuple[list[float], list[float], float]:
    """(gaps without, gaps while a long prompt is read, seconds until the long prompt's first token)."""
    source = random.Random(0)
    vocabulary = engine.architecture.vocabulary_size
    quiet: list[float] = []
    beside: list[float] = []
    gaps = quiet
    forever = GenerationParameters(max_new_tokens=100_000, ignore_eos=True)

    async def client(number: int) -> None:
        seen = 0
        while True:  # an answer that reaches the end of the context is followed by another
            before: float | None = None
            async for _ in engine.stream([source.randrange(vocabulary) for _ in range(32)], forever, str(number)):
                now, seen = time.perf_counter(), seen + 1
                if before is not None and seen > WARM_PIECES:
                    gaps.append(now - before)
                before = now

    prompt = [source.randrange(vocabulary) for _ in range(prompt_tokens)]
    clients = [asyncio.create_task(client(number)) for number in range(running)]
    while len(quiet) < 60 * running:
        await asyncio.sleep(0.01)
    gaps = beside
    started = time.perf_counter()
    await engine.complete(prompt, GenerationParameters(max_new_tokens=1, ignore_eos=True), "long")
    seconds = time.perf_counter() - started
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return quiet, beside, seconds


def main() -> None:
    """Print the table; exit with 1 where the p99 rises more than threefold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--prompt-tokens", type=int, default=2_000, help="the long prompt; bounded by the context")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many")
    arguments = parser.parse_args()
    settings = Settings(bundle=arguments.bundle, slots=32, prefix_cache_mib=0, lookup_rows=0)
    engine = open_live_model(arguments.bundle, settings, Telemetry()).engine
    tokens = min(arguments.prompt_tokens, engine.architecture.context_length - 8)
    print(
        f"a prompt of {tokens:,} tokens beside others\n{'running':>8}{'p99 without':>14}{'p99 beside':>14}{'ratio':>8}"
    )
    worst = 0.0
    for running in (1, 8, 24):
        rounds = [asyncio.run(measure(engine, running, tokens)) for _ in range(arguments.rounds)]
        without, beside = (float(np.median([np.percentile(r[k], 99) for r in rounds])) for k in (0, 1))
        first = float(np.median([r[2] for r in rounds]))
        worst = max(worst, beside / without)
        print(f"{running:>8}{without * 1e3:>11.2f} ms{beside * 1e3:>11.2f} ms{beside / without:>8.2f}"
              f"   first token of the long one after {first:.2f} s")  # fmt: skip
    engine.stop()
    raise SystemExit(1 if worst > 3 else 0)


if __name__ == "__main__":
    main()
