"""From the command to the first answer: seconds and resident memory of a fresh server, and its tokens a second."""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

PROMPT = {"text": "def read_lines(path):", "max_new_tokens": 128, "temperature": 0.8, "seed": 1}
WARM_REQUESTS = 20


def measure(bundle: Path) -> tuple[float, float, float]:
    """(seconds to the first answer, MiB resident after a few more, tokens a second of one client)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ml_service.cli", "serve", "--bundle", str(bundle), "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _first_answer(client, process)
            seconds = time.perf_counter() - started
            rates = [_rate(client, seed) for seed in range(WARM_REQUESTS)]
        resident = psutil.Process(process.pid).memory_info().rss / 2**20
    finally:
        process.terminate()
        process.wait()
    return seconds, resident, statistics.median(rates)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--rounds", type=int, default=5, help="fresh servers to start")
    arguments = parser.parse_args()
    rounds = [measure(arguments.bundle) for _ in range(arguments.rounds)]
    for label, values, unit in zip(
        ("command to first answer", "resident memory", "one client"),
        zip(*rounds, strict=True),
        ("s", "MiB", "tokens/s"),
        strict=True,
    ):
        print(f"{label:<25} median {statistics.median(values):8.2f} {unit:<9} worst of {len(values)}: ", end="")
        print(f"{min(values) if unit == 'tokens/s' else max(values):.2f}")


def _first_answer(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            client.post("/forward", json=PROMPT).raise_for_status()
        except httpx.ConnectError:
            time.sleep(0.005)
        else:
            return
    raise SystemExit("the server ended before it answered")


def _rate(client: httpx.Client, seed: int) -> float:
    answer = client.post("/forward", json=PROMPT | {"seed": seed}).raise_for_status().json()
    return float(answer["timings"]["tokens_per_second"])


if __name__ == "__main__":
    main()
