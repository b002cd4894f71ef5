"""Promise 3: deployments back and forth under load: no request lost or mixed, memory flat, no generation left out."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from sqlalchemy import select
from tqdm import tqdm

from ml_service.common.bundle import TOKENIZER_FILE, load_architecture
from ml_service.common.settings import PROJECT, Settings
from ml_service.common.types import GenerationParameters
from ml_service.data.database import Database
from ml_service.data.experiments import Experiments
from ml_service.data.schema import migrate
from ml_service.data.tables import Deployment
from ml_service.inference.live import open_live_model
from ml_service.utils.telemetry import Telemetry
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import Stack

PROMPTS = (
    "def read_lines(path):", "import os\n", "class Stack:", "def main():", "for name in names:", "try:", "self.",
    "def add(first, second):", "with open(path) as file:", "def total(values):", "class Node:", "if __name__ ==",
)  # fmt: skip
LENGTHS = (16, 48, 96)
QUANTILES = (0.5, 0.95, 0.99, 1)
WARM_DEPLOYS = 10
QUIET_S = 3.0
"""Without deployments, after each fifth of them: what is usual changes with what else the machine does."""
MOST_GROWTH = 0.05
FEW, MOST_GROWTH_OF_FEW = 500, 0.15
"""So few deployments tell little of a slope: what comes and goes by itself is more."""
Expected = dict[tuple[int, str, int], str]
"""(experiment, prompt, new tokens) → the greedy text."""


@dataclass
class Seen:
    """What clients got."""

    spans: list[tuple[float, float, int]] = field(default_factory=list)
    """(begin, end, tokens asked for) of each answer."""
    failed: Counter[str] = field(default_factory=Counter)
    mixed: list[str] = field(default_factory=list)
    by_model: Counter[int] = field(default_factory=Counter)


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=PROJECT / "data" / "bundle", help="the shipped one")
    parser.add_argument("--other", type=Path, help="another one; by default the same weights in 4 bit")
    parser.add_argument("--deploys", type=int, help="how many (1,000, quick 60)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two deployments")
    arguments = parser.parse_args()
    arguments.deploys = arguments.deploys or (60 if arguments.quick else 1000)
    report = Report("deploys", is_quick=arguments.quick)
    bundles = [arguments.bundle, arguments.other or in_4_bit(arguments.bundle)]
    expected = {key: text for number, each in enumerate(bundles, 1) for key, text in texts_of(number, each).items()}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        database = Database(None, store)
        migrate(database)
        for each in bundles:
            Experiments(database, store).import_bundle(each.resolve(), "chaos")
        stack = Stack(store, arguments.bundle, has_postgresql=False, has_worker=False)
        with stack.running():
            asyncio.run(measure(stack, expected, arguments, report))
        check_generations(database, arguments.deploys, report)
        database.close()
    report.finish()


def in_4_bit(bundle: Path) -> Path:
    """The same weights, rounded to 4 bit: other tokens, the same tokenizer. Made once."""
    made = PROJECT / "data/store/benchmarks/swap" / f"{bundle.resolve().name}-int4"
    if not made.is_dir():
        from ml_service.inference.torch_session import load_model
        from ml_service.pipeline.stages import import_checkpoint

        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            load_model(bundle, load_architecture(bundle)).save_pretrained(folder)
            shutil.copy(bundle / TOKENIZER_FILE, folder)
            import_checkpoint(folder, made, "int4")
    return made


def texts_of(number: int, bundle: Path) -> Expected:
    """What a model answers to every prompt at every length."""
    engine = open_live_model(bundle, Settings(slots=4), Telemetry()).engine

    async def ask(prompt: str, length: int) -> str:
        parameters = GenerationParameters(max_new_tokens=length)
        return (await engine.complete(await engine.encode(prompt), parameters, "expected")).text

    texts = {(number, p, n): asyncio.run(ask(p, n)) for p in PROMPTS for n in LENGTHS}
    engine.stop()
    return texts


async def measure(stack: Stack, expected: Expected, arguments: argparse.Namespace, report: Report) -> None:
    """All of it."""
    seen, is_over = Seen(), asyncio.Event()
    differ = sum(expected[1, p, n] != expected[2, p, n] for p in PROMPTS for n in LENGTHS)
    print(f"{differ} of {len(PROMPTS) * len(LENGTHS)} expected answers differ between the models")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(stack.url, connector=connector) as session:
        clients = [asyncio.create_task(ask(session, n, expected, seen, is_over)) for n in range(arguments.clients)]
        await asyncio.sleep(3)
        for number in range(WARM_DEPLOYS):
            await deploy(session, 2 - number % 2)
        quiet = [await rest()]
        swaps, memory = [], []
        for number in tqdm(range(arguments.deploys), desc="deploys", mininterval=5):
            swaps.append(await deploy(session, 2 - number % 2))
            await asyncio.sleep(arguments.pause)
            memory.append(stack.resident_mib())
            if (number + 1) % max(arguments.deploys // 5, 1) == 0:
                quiet.append(await rest())
        is_over.set()
        await asyncio.gather(*clients)
    tell(seen, quiet, swaps, memory, report)


async def ask(
    session: aiohttp.ClientSession, number: int, expected: Expected, seen: Seen, is_over: asyncio.Event
) -> None:
    """One client: whole answers and streams in turn, each held against what its model would say."""
    source = random.Random(number)
    while not is_over.is_set():
        prompt, length, streams = source.choice(PROMPTS), source.choice(LENGTHS), source.random() < 0.5
        body = {"text": prompt, "max_new_tokens": length, "stream": streams}
        begun = time.perf_counter()
        try:
            async with session.post("/forward", json=body) as response:
                content = await response.text()
                if response.status != 200:
                    seen.failed[str(response.status)] += 1
                    continue
        except aiohttp.ClientError as error:
            seen.failed[type(error).__name__] += 1
            continue
        seen.spans.append((begun, time.perf_counter(), length))
        answer = json.loads(content.rsplit("data: ", 1)[1] if streams else content)
        if "prediction" not in answer:
            seen.failed["error in a stream"] += 1
            continue
        experiment = answer["model"]["experiment_id"]
        seen.by_model[experiment] += 1
        if answer["prediction"] != expected[experiment, prompt, length]:
            seen.mixed.append(f"{experiment} {prompt!r} {length}")


async def rest() -> tuple[float, float]:
    """A time without deployments."""
    begun = time.perf_counter()
    await asyncio.sleep(QUIET_S)
    return begun, time.perf_counter()


async def deploy(session: aiohttp.ClientSession, experiment: int) -> tuple[float, float]:
    """When it began and when it was live."""
    begun = time.perf_counter()
    async with session.post(f"/deploy/{experiment}") as response:
        assert response.status == 200, await response.text()
    return begun, time.perf_counter()


def tell(
    seen: Seen, quiet: list[tuple[float, float]], swaps: list[tuple[float, float]], memory: list[float], report: Report
) -> None:
    """What came of it."""
    usual = [end - begin for begin, end, _ in seen.spans if any(a < begin and end < b for a, b in quiet)]
    beside = [end - begin for begin, end, _ in seen.spans if any(begin < b and end > a for a, b in swaps)]
    took, failed = [end - begin for begin, end in swaps], sum(seen.failed.values())
    report.figure("deployments", f"{len(swaps):,}: median {np.median(took):.3f} s, p99 {np.quantile(took, 0.99):.3f} s")
    report.figure("answers, failed, mixed", f"{len(seen.spans):,}, {failed}, {len(seen.mixed)}")
    print(f"by model {dict(seen.by_model)}")
    print(f"{'requests':<24}{'count':>8}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'most ms':>10}")
    for name, spans in (("without deployments", usual), ("overlapping one", beside)):
        print(f"{name:<24}{len(spans):>8}" + "".join(f"{q * 1e3:>10.1f}" for q in np.quantile(spans, QUANTILES)))
    ratio = np.quantile(beside, 0.99) / np.quantile(usual, 0.99)
    report.figure("p99 overlapping a deployment over usual", f"{ratio:.2f}")
    tenths = [float(np.mean(part)) for part in np.array_split(memory, 10)]
    print(f"resident MiB by tenths {' '.join(f'{mib:.0f}' for mib in tenths)}, {max(memory):.0f} at most")
    settled = memory[len(memory) // 10 :]
    slope = float(np.polyfit(range(len(settled)), settled, 1)[0]) * 1000
    told = f", {slope:+.1f} MiB per 1,000 deployments" if len(memory) >= FEW else ""
    report.figure("resident memory", f"{tenths[1]:.0f} -> {tenths[-1]:.0f} MiB{told}")
    report.expect(not failed, f"{failed} requests failed: {dict(seen.failed)}")
    report.expect(not seen.mixed, f"{len(seen.mixed)} answers are not their model's: {seen.mixed[:3]}")
    report.expect(len(seen.by_model) == 2, f"only one model answered: {dict(seen.by_model)}")
    grown = tenths[-1] / tenths[1] - 1
    most = MOST_GROWTH if len(memory) >= FEW else MOST_GROWTH_OF_FEW
    report.expect(grown <= most, f"memory grew from {tenths[1]:.0f} to {tenths[-1]:.0f} MiB")


def check_generations(database: Database, deploys: int, report: Report) -> None:
    """The first start, the warm ones and the measured: each has the next one, and nothing went back by itself."""
    with database.reading() as session:
        rows = session.scalars(select(Deployment).order_by(Deployment.id)).all()
    generations = [row.generation for row in rows]
    is_exact = generations == list(range(1, 1 + WARM_DEPLOYS + deploys + 1))
    report.figure("generations", f"{len(generations):,}, {'none missing' if is_exact else 'not in order'}")
    report.expect(is_exact, f"generations are {generations[:3]}…{generations[-3:]}, {len(generations)}")
    back = [row.reason for row in rows if row.reason.startswith("auto_rollback")]
    report.expect(not back, f"{len(back)} sound deployments went back by themselves")
    active = [row.id for row in rows if row.state == "active"]
    report.expect(active == [rows[-1].id], f"active are {active}")


if __name__ == "__main__":
    main()
