"""Promise 4: whether a training beside the service is felt: `/forward` with and without it, in turns, in one run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from lib.provenance import usable_cores
from ml_service.common.settings import PROJECT
from tests.chaos.load import Wish, asking
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import Stack, wait_until

GOAL = 1.5
QUANTILES = (50, 95, 99)
FINISHED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Crowd:
    """Clients who ask again as soon as they were answered, or after a pause."""

    clients: int
    pause_s: float = 0.0

    def __str__(self) -> str:
        """As figures and tables name it."""
        who = f"{self.clients} client{'s' if self.clients > 1 else ''}"
        return f"{who} with pauses" if self.pause_s else who


PAUSING = Crowd(4, 0.15)
"""Between their requests there is time to train; beside the others, who never pause, a training stands still."""
CROWDS = (Crowd(1), Crowd(4), PAUSING)
Taken = dict[tuple[Crowd, bool], list[float]]
"""Seconds that each request took, by who asked and whether there was a training."""


def main() -> None:
    """Print percentiles and ratios; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--text", type=Path, help="a file to train on meanwhile; our own source by default")
    parser.add_argument("--seconds", type=float, help="of each measurement (15, quick 6)")
    parser.add_argument("--rounds", type=int, help="without and with a training, so many times (2, quick 1)")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (6.0 if arguments.quick else 15.0)
    rounds = arguments.rounds or (1 if arguments.quick else 2)
    report = Report("politeness", is_quick=arguments.quick)
    taken: Taken = {}
    rates: dict[Crowd, list[float]] = {}
    settings = {"worker": "embedded", "training_threads": str(usable_cores())}
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "store", has_postgresql=False, has_worker=False, settings=settings)
        with stack.running(), httpx.Client(base_url=stack.url, timeout=60) as client:
            _add(client, arguments.text)
            _measure(stack, CROWDS[1], 3.0, report)  # warm
            for number in range(rounds):
                for trains in (False, True):
                    report.step(f"round {number + 1} of {rounds}, {'beside a' if trains else 'without'} training")
                    experiment = _begin_training(client) if trains else None
                    for crowd in CROWDS:
                        began, tokens = time.monotonic(), _tokens_of(client, experiment)
                        taken.setdefault((crowd, trains), []).extend(_measure(stack, crowd, seconds, report))
                        if experiment is not None:
                            rate = (_tokens_of(client, experiment) - tokens) / (time.monotonic() - began)
                            rates.setdefault(crowd, []).append(rate)
                    if experiment is not None:
                        _end_training(client, experiment)
    _tell(taken, report)
    for crowd in CROWDS:
        report.figure(f"trained beside {crowd}", f"{np.mean(rates[crowd]):,.0f} tokens/s")
    report.expect(np.mean(rates[PAUSING]) > 0, "there was no training even in the pauses")
    report.finish()


def _tell(taken: Taken, report: Report) -> None:
    print("| clients | training | requests | p50 | p95 | p99 |\n|---|---|---|---|---|---|")
    for crowd in CROWDS:
        percentiles = {}
        for trains in (False, True):
            values = np.array(taken[crowd, trains]) * 1000
            percentiles[trains] = np.percentile(values, QUANTILES)
            told = " | ".join(f"{value:.1f} ms" for value in percentiles[trains])
            print(f"| {crowd} | {'yes' if trains else 'no'} | {len(values)} | {told} |")
        ratios = percentiles[True] / percentiles[False]
        print(f"| {crowd} | **ratio** | | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
        report.figure(f"p99 with a training over without, {crowd}", f"{ratios[2]:.2f}")
        report.expect(ratios[2] <= GOAL, f"p99 with {crowd} is {ratios[2]:.2f} times as long beside a training")


def _add(client: httpx.Client, text: Path | None) -> None:
    """What is trained on meanwhile."""
    paths = [text] if text is not None else sorted((PROJECT / "ml_service").rglob("*.py"))
    files = [("files", (path.name, path.read_bytes())) for path in paths if path.stat().st_size]
    client.post("/add_data", files=files, data={"name": "source"}).raise_for_status()


def _begin_training(client: httpx.Client) -> int:
    wish = {"budget": {"seconds": 3600}, "replay": 0}
    experiment = int(client.post("/retrain", json=wish).raise_for_status().json()["experiment_id"])

    def has_begun() -> bool:
        account = _account(client, experiment)
        if account["state"] in FINISHED:
            raise SystemExit(f"the training ended: {account['error']}")
        return bool(account["progress"].get("step"))

    wait_until(has_begun, "the beginning of a training", 180)
    return experiment


def _end_training(client: httpx.Client, experiment: int) -> None:
    client.post(f"/experiments/{experiment}/cancel").raise_for_status()
    wait_until(lambda: _account(client, experiment)["state"] in FINISHED, "the end of a training")


def _account(client: httpx.Client, experiment: int) -> dict[str, Any]:
    account: dict[str, Any] = client.get(f"/metrics/{experiment}").raise_for_status().json()
    return account


def _tokens_of(client: httpx.Client, experiment: int | None) -> int:
    """Trained by now, as of the last line of its log."""
    return 0 if experiment is None else int(_account(client, experiment)["progress"]["tokens"])


def _measure(stack: Stack, crowd: Crowd, seconds: float, report: Report) -> list[float]:
    """Seconds that each request took."""
    with asking(Wish(stack.url, clients=crowd.clients, pause_s=crowd.pause_s)) as load:
        time.sleep(seconds)
    report.expect(not load.failures(), f"/forward failed: {load.failures()}")
    return [answer.seconds for answer in load.answers]


if __name__ == "__main__":
    main()
