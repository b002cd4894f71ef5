"""From the command to the first answer: seconds and resident memory of a fresh server, and its tokens a second."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.server import RunningServer, running_server

PROMPT: dict[str, object] = {"text": "def read_lines(path):", "max_new_tokens": 128, "temperature": 0.8, "seed": 1}
WARM_REQUESTS = 20


def measure(bundle: Path) -> tuple[float, float, float]:
    """(seconds to the first answer, MiB resident after a few more, tokens a second of one client)."""
    started = time.perf_counter()
    with running_server(bundle) as server:
        server.post_first(PROMPT)
        seconds = time.perf_counter() - started
        rates = [_rate(server, seed) for seed in range(WARM_REQUESTS)]
        return seconds, server.resident_mib(), statistics.median(rates)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--rounds", type=int, default=5, help="fresh servers to start")
    arguments = parser.parse_args()
    seconds, resident, rates = zip(*(measure(arguments.bundle) for _ in range(arguments.rounds)), strict=True)
    for label, values, worst, unit in (
        ("command to first answer", seconds, max(seconds), "s"),
        ("resident memory", resident, max(resident), "MiB"),
        ("one client, sampled", rates, min(rates), "tokens/s"),
    ):
        print(f"{label:<25} median {statistics.median(values):8.2f}, worst of {len(values)} {worst:8.2f} {unit}")


def _rate(server: RunningServer, seed: int) -> float:
    answer = server.client.post("/forward", json=PROMPT | {"seed": seed}).raise_for_status().json()
    return float(answer["timings"]["tokens_per_second"])


if __name__ == "__main__":
    main()
