"""Rounds: every participant in turn, one at a time, again and again, so that a slow minute of the machine meets all."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.serving.checkpoints import SHAPES, Shape, make_checkpoint
from benchmarks.serving.environments import Unavailable, converted, interpreter
from benchmarks.serving.participants import Participant
from benchmarks.serving.reference import agreement, reference_load
from benchmarks.serving.worker_process import WorkerProcess, await_quiet
from benchmarks.serving.workers.protocol import Limits, Request, Unsupported
from benchmarks.serving.workloads import LONGEST, Workload

WARM_UP_SEED = 999
WARM_UP_TOKENS = 8
FIRST_TOKEN_REPEATS = 5
QUIET_CORES = 0.1
"""Where other processes used more than this, a measurement is made again."""
QUIET_WITHIN_S = 60.0
TRIES = 3


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    rounds: int
    threads: int
    is_quick: bool
    store: Path

    def limits(self, workloads: Iterable[Workload]) -> Limits:
        """For a participant: no more slots than the widest workload has clients."""
        return Limits(self.threads, max(workload.concurrency for workload in workloads), LONGEST)


@dataclass(frozen=True)
class Measured:
    """A median over the rounds: tokens a second, or milliseconds to the first token."""

    value: float
    others_cores: float
    """The most that other processes used in any round that counts."""


@dataclass
class Row:
    """What is known of a participant in a block, or why there is nothing."""

    participant: Participant
    agreement: float | None = None
    problem: str = ""
    lacking: dict[Workload, str] = field(default_factory=dict)
    measured: dict[Workload, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """A table: one shape in one precision."""

    shape: Shape
    bits: int
    rows: list[Row]


def measure_block(shape: Shape, bits: int, participants: list[Participant], works: list[Workload], plan: Plan) -> Block:
    """Set up, check and measure everybody who can take part."""
    make_checkpoint(shape, plan.store / "checkpoints" / shape)
    rows = [Row(participant) for participant in participants]
    samples: dict[tuple[str, Workload], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        workers: list[tuple[Row, WorkerProcess]] = []
        for row in tqdm(rows, desc=f"{shape}, {bits} bit: set up", leave=False):
            try:
                workers.append((row, stack.enter_context(_set_up(row, shape, bits, works, plan))))
            except Unavailable as error:
                row.problem = str(error)
        steps = [
            (number, row, worker, work) for number in range(plan.rounds) for row, worker in workers for work in works
        ]
        for number, row, worker, work in tqdm(steps, desc=f"{shape}, {bits} bit", unit="measurement"):
            if row.problem or work in row.lacking:
                continue
            try:
                sample = _measure(worker, work, SHAPES[shape]["vocab_size"], number, plan)
                samples.setdefault((row.participant.name, work), []).append(sample)
            except Unsupported as error:
                row.lacking[work] = str(error)
            except Unavailable as error:
                row.problem = str(error)
    for row in rows:
        for work in works:
            if found := samples.get((row.participant.name, work)):
                values, others = zip(*found, strict=True)
                row.measured[work] = Measured(statistics.median(values), max(others))
    return Block(shape, bits, rows)


def _set_up(row: Row, shape: Shape, bits: int, works: list[Workload], plan: Plan) -> WorkerProcess:
    participant, checkpoint = row.participant, plan.store / "checkpoints" / shape
    if bits not in participant.bits:
        raise Unavailable(participant.lacks)
    log = plan.store / "logs" / f"{participant.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    python = interpreter(participant, plan.store / "envs", log)
    directory = plan.store / "models" / participant.name / f"{shape}-{bits}"
    model = converted(participant, python, checkpoint, directory, bits, log)
    command = [str(python), "-m", participant.module, "serve", str(model)]
    worker = WorkerProcess(command, plan.limits(works), log)
    try:
        load, expected = reference_load(checkpoint)
        row.agreement = agreement(worker.answer(load).tokens, expected)
        for work in works:
            _warm_up(worker, work, SHAPES[shape]["vocab_size"])
    except Unavailable:
        worker.close()
        raise
    return worker


def _warm_up(worker: WorkerProcess, work: Workload, vocabulary_size: int) -> None:
    load = work.load(vocabulary_size, WARM_UP_SEED, is_quick=True)
    requests = [Request(request.prompt, min(WARM_UP_TOKENS, request.new_tokens)) for request in load.requests]
    try:
        worker.answer(replace(load, requests=requests[: load.concurrency]))
    except Unsupported:
        return  # it will be said where the measurement is due


def _measure(
    worker: WorkerProcess, work: Workload, vocabulary_size: int, number: int, plan: Plan
) -> tuple[float, float]:
    """(value, cores used by others); the quietest of a few tries, each with prompts of its own."""
    best = (0.0, float("inf"))
    for attempt in range(TRIES):
        await_quiet(QUIET_CORES, QUIET_WITHIN_S)
        sample = _sample(worker, work, vocabulary_size, number * TRIES + attempt, plan)
        best = min(best, sample, key=lambda one: one[1])
        if best[1] <= QUIET_CORES:
            break
    return best


def _sample(worker: WorkerProcess, work: Workload, vocabulary_size: int, seed: int, plan: Plan) -> tuple[float, float]:
    repeats = FIRST_TOKEN_REPEATS if work.kind == "first_token" else 1
    loads = [work.load(vocabulary_size, seed * repeats + one, is_quick=plan.is_quick) for one in range(repeats)]
    answers = [worker.answer(load) for load in loads]
    others_cores = sum(answer.others_s for answer in answers) / sum(answer.wall_s for answer in answers)
    if work.kind == "first_token":
        return 1e3 * statistics.median(answer.seconds for answer in answers), others_cores
    return sum(map(len, answers[0].tokens)) / answers[0].seconds, others_cores
