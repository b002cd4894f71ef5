"""Whether a training beside the service is felt: latencies of `/forward` with and without it, in turns, in one run."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.retraining import follow
from benchmarks.server import RunningServer, running_server

GOAL = 1.5
PROMPTS = ["def read_lines(path):", "import os\n", "class Node:", "for name in ", "return self."]


def main() -> None:
    """Print percentiles and ratios; exit with 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="a file to train on meanwhile")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="who ask at the same time")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="without and with a training, so many times")
    arguments = parser.parse_args()
    taken: dict[tuple[int, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as store, running_server(None, store=Path(store)) as server:
        server.post_first({"text": "a", "max_new_tokens": 8})
        with arguments.text.open("rb") as file:
            server.client.post("/add_data", files={"files": (arguments.text.name, file)}).raise_for_status()
        _measure(server, max(arguments.clients), 5.0)  # warm
        for _ in range(arguments.rounds):
            for trains in (False, True):
                experiment = _begin_training(server) if trains else None
                began, tokens = time.monotonic(), _tokens_of(server, experiment)
                for clients in arguments.clients:
                    taken.setdefault((clients, trains), []).extend(_measure(server, clients, arguments.seconds))
                if experiment is not None:
                    rate = (_tokens_of(server, experiment) - tokens) / (time.monotonic() - began)
                    print(f"trained meanwhile at about {rate:,.0f} tokens/s")
                    server.client.post(f"/experiments/{experiment}/cancel").raise_for_status()
                    follow(server, experiment)
    raise SystemExit(_report(taken))


def _report(taken: dict[tuple[int, bool], list[float]]) -> int:
    missed = 0
    print("| clients | training | requests | p50 | p95 | p99 |\n|---|---|---|---|---|---|")
    for clients in sorted({key[0] for key in taken}):
        percentiles = {}
        for trains in (False, True):
            values = np.array(taken[clients, trains]) * 1000
            percentiles[trains] = np.percentile(values, [50, 95, 99])
            told = " | ".join(f"{value:.1f} ms" for value in percentiles[trains])
            print(f"| {clients} | {'yes' if trains else 'no'} | {len(values)} | {told} |")
        ratios = percentiles[True] / percentiles[False]
        print(f"| {clients} | **ratio** | | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
        missed += ratios[2] > GOAL
    return missed


def _begin_training(server: RunningServer) -> int:
    wish = {"budget": {"seconds": 3600}, "replay": 0}
    experiment = int(server.client.post("/retrain", json=wish).raise_for_status().json()["experiment_id"])
    while True:
        account = server.client.get(f"/metrics/{experiment}").json()
        if account["progress"].get("step"):
            return experiment
        if account["state"] not in ("queued", "running"):
            raise SystemExit(f"the training ended: {account['error']}")
        time.sleep(0.5)


def _tokens_of(server: RunningServer, experiment: int | None) -> int:
    """Trained by now, as of the last line of its log."""
    if experiment is None:
        return 0
    return int(server.client.get(f"/metrics/{experiment}").raise_for_status().json()["progress"]["tokens"])


def _measure(server: RunningServer, clients: int, seconds: float) -> list[float]:
    """Seconds that each request took; every client asks again as soon as it was answered."""
    return asyncio.run(_ask(str(server.client.base_url), clients, seconds))


async def _ask(url: str, clients: int, seconds: float) -> list[float]:
    taken: list[float] = []
    deadline = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while time.monotonic() < deadline:
            turn += 1
            body = {"text": PROMPTS[turn % len(PROMPTS)], "max_new_tokens": 32, "temperature": 0.8, "seed": turn}
            started = time.perf_counter()
            async with session.post(f"{url}/forward", json=body | {"ignore_eos": True}) as answer:
                await answer.read()
                answer.raise_for_status()
            taken.append(time.perf_counter() - started)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    return taken


if __name__ == "__main__":
    main()
