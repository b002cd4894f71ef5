"""What HTTP costs: tokens a second of the engine alone and through each route; processor time a token."""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import RunningServer, running_server
from ml_service.common.settings import Settings
from ml_service.pipeline.load.engine_target import opened_engine
from ml_service.pipeline.load.generator import measure
from ml_service.pipeline.load.http_target import Service
from ml_service.pipeline.load.outcomes import summarise
from ml_service.pipeline.load.target import Openable
from ml_service.pipeline.load.workload import Load, Workload

ENGINE = "engine alone"
_WAVES = 10
"""Requests of each client: with few the common start counts more than what follows."""
GOALS = {"/forward, whole": 0.9, "/forward, streamed": 0.8, "/v1/completions, streamed": 0.8}
"""Of the engine's tokens a second, on the machine that the load generator shares."""


@dataclass(frozen=True)
class Round:
    """One measurement. Other work on the machine spoils the rate; the processor times it does not."""

    tokens_per_second: float
    server_us: float
    """Microseconds of the server's event loop a token: all that HTTP adds to the engine."""
    client_us: float
    """Microseconds of the load generator a token."""


Rounds = dict[tuple[str, int], list[Round]]


def measure_rounds(
    targets: Mapping[str, Openable], server: RunningServer, concurrencies: list[int], requests: int, rounds: int
) -> Rounds:
    """Every target at each concurrency, so many times, with the same prompts of words in a round.

    Targets take turns, so that a machine that slows down does so for all of them.
    """
    measured: Rounds = defaultdict(list)
    for number in range(rounds):
        for concurrency in concurrencies:
            first = number % len(targets)
            for name in [*list(targets)[first:], *list(targets)[:first]]:
                load = Load(concurrency, requests=max(requests, _WAVES * concurrency), warmup=concurrency)
                before_s = _event_loop_s(server)
                summary = summarise(measure(targets[name], Workload(seed=number, words=True), load))
                if summary.failed:
                    raise SystemExit(f"{name}: {summary.failures}")
                tokens = summary.completion_tokens
                server_us = (_event_loop_s(server) - before_s) / tokens * 1e6
                client_us = summary.client_cpu_share * summary.seconds / tokens * 1e6
                measured[name, concurrency].append(Round(summary.tokens_per_second, server_us, client_us))
    return measured


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--concurrency", default="1,8,32", help="requests at a time, one after the other")
    parser.add_argument("--requests", type=int, default=64, help="requests of a measurement, or ten for each client")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, interleaved")
    arguments = parser.parse_args()
    concurrencies = [int(number) for number in arguments.concurrency.split(",")]
    os.environ["ML_SERVICE_SLOTS"] = str(max(concurrencies))  # of the engine here and of the server alike
    os.environ["ML_SERVICE_PREFIX_CACHE_MIB"] = "0"  # the routes ask the same: who comes later would read nothing
    bundle = arguments.bundle.resolve()
    with opened_engine(bundle, Settings()) as engine, running_server(bundle) as server:
        server.post_first({"text": "def", "max_new_tokens": 1})
        targets = {ENGINE: engine, **_routes(server)}
        measured = measure_rounds(targets, server, concurrencies, arguments.requests, arguments.rounds)
    print(f"{'requests at a time':<47}" + "".join(f"{concurrency:>10}" for concurrency in concurrencies))
    _print_rows("tokens/s", measured, targets, lambda own, _: own.tokens_per_second, "10,.0f")
    _print_rows("of the engine's", measured, GOALS, lambda own, alone: own.tokens_per_second / alone, "10.2f")
    _print_rows("server, us a token", measured, GOALS, lambda own, _: own.server_us, "10,.0f")
    _print_rows("client, us a token", measured, GOALS, lambda own, _: own.client_us, "10,.0f")


def _routes(server: RunningServer) -> dict[str, Openable]:
    url = str(server.client.base_url)
    services = (Service(url, streams=False), Service(url), Service(url, route="completions"))
    return dict(zip(GOALS, services, strict=True))


def _event_loop_s(server: RunningServer) -> float:
    """Processor time of the server's main thread; the engine runs in others."""
    (main,) = [thread for thread in server.process.threads() if thread.id == server.process.pid]
    return float(main.user_time + main.system_time)


def _print_rows(
    what: str, measured: Rounds, names: Mapping[str, object], value: Callable[[Round, float], float], layout: str
) -> None:
    """The medians over the rounds; `value` also gets the engine's own tokens a second in the same round."""
    for name in names:
        row = f"{name:<27}{what:<20}"
        for concurrency in {concurrency: None for _, concurrency in measured}:
            rounds = zip(measured[name, concurrency], measured[ENGINE, concurrency], strict=True)
            row += format(statistics.median(value(own, alone.tokens_per_second) for own, alone in rounds), layout)
        goal = GOALS.get(name) if what.startswith("of the") else None
        print(row + (f"   goal {goal}" if goal else ""))


if __name__ == "__main__":
    main()
