"""`ml-service bench`: measure one target under one load or several, with a bar on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from lib.provenance import machine, now_utc
from ml_service.common.settings import Settings
from ml_service.pipeline.load.generator import measure
from ml_service.pipeline.load.http_target import Service
from ml_service.pipeline.load.outcomes import Measurement, Outcome
from ml_service.pipeline.load.report import FILES, Report, table, write_report
from ml_service.pipeline.load.target import Openable
from ml_service.pipeline.load.workload import Load, Workload

DEFAULT_SECONDS = 10.0
"""Of each load, where neither requests nor seconds are given."""


def loads(concurrency: str, rate: float | None, requests: int | None, seconds: float | None, warmup: int) -> list[Load]:
    """A load for each number in `1,8,32`; one where a rate is given. Raises ValueError in words."""
    if requests is None and seconds is None:
        seconds = DEFAULT_SECONDS
    if rate is not None:
        return [Load(rate=rate, requests=requests, seconds=seconds, warmup=warmup)]
    numbers = concurrency.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"{concurrency!r} is no concurrency: write 8, or 1,8,32 for one after the other")
    return [Load(int(number), requests=requests, seconds=seconds, warmup=warmup) for number in numbers]


@contextmanager
def service_or_engine(service: Service | None, bundle: Path | None) -> Iterator[Openable]:
    """The service; where there is none the engine in this process, with the environment's settings."""
    if service is not None:
        yield service
        return
    from ml_service.pipeline.load.engine_target import opened_engine  # a client loads no runtime

    with opened_engine(bundle, Settings()) as opened:
        yield opened


def run_bench(target: Openable, workload: Workload, loads: Sequence[Load]) -> Report:
    """Measure under one load after the other; Ctrl-C ends the one under way and leaves out the others.

    Each load has a seed of its own: the prompts of one must not lie in the target's prefix cache for the next.
    """
    measurements: list[Measurement] = []
    for number, load in enumerate(loads):
        with _bar(load) as show:
            measurements.append(measure(target, replace(workload, seed=workload.seed + number), load, show))
        if measurements[-1].is_interrupted:
            break
    return Report(str(target), workload, measurements, now_utc(), machine())


def finish(report: Report, output: Path | None, max_failures: int) -> int:
    """Print the table and keep the files; returns the exit code.

    0; 1 where more requests failed than allowed; 130, as shells know it, after Ctrl-C.
    """
    if not any(measurement.outcomes for measurement in report.measurements):
        print("nothing was measured")
    else:
        print(table(report))
        if output is not None:
            write_report(report, output)
            print(f"\nkept in {output}: {', '.join(FILES)}")
    if any(measurement.is_interrupted for measurement in report.measurements):
        return 130
    return 1 if report.failed > max_failures else 0


@contextmanager
def _bar(load: Load) -> Iterator[Callable[[Outcome], None]]:
    """A bar over the requests, or over the seconds; none where nobody watches."""
    total = load.requests or load.seconds
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
    unit = "requests" if load.requests else "s"
    with tqdm(total=total, desc=f"load {load}", unit=unit, bar_format=layout, disable=None, leave=False) as bar:

        def show(outcome: Outcome) -> None:
            done = 1 if load.requests else max(0.0, min(outcome.ended_s, load.seconds or 0) - bar.n)
            bar.update(done)

        yield show
