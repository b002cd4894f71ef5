"""Adding a large upload to the data set: seconds, MB/s, memory of server and intake, what it costs those who ask."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from benchmarks.server import RunningServer, running_server

GOAL_MIB = 300
_WORDS = 60_000
_PARAGRAPH_WORDS = 250
_REPEATED = 0.02
"""Of the paragraphs of the row files: half of these are copies, half nearly so."""
PROMPT = {"text": "def read_lines(path):", "max_new_tokens": 16}


def paragraphs(seed: int) -> Iterator[str]:
    """Sentences of made-up words, some of them seldom; the same for a seed, without an end."""
    source = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = source.integers(2, 11, _WORDS)
    words = np.array(["".join(source.choice(letters, length)) for length in lengths])
    while True:
        # The square of a uniform number: common words are common, as in any language.
        chosen = (source.random((1000, _PARAGRAPH_WORDS)) ** 2 * _WORDS).astype(np.int64)
        for row in words[chosen]:
            yield " ".join(row) + ".\n"


def write_upload(folder: Path, megabytes: int) -> list[Path]:
    """Half of it plain text, the other half rows with some repetitions."""
    plain, rows = folder / "book.txt", folder / "rows.jsonl"
    half, written = megabytes * 500_000, 0
    with plain.open("w") as file:
        for text in paragraphs(1):
            written += file.write(text + "\n")
            if written >= half:
                break
    source, written, last = np.random.default_rng(0), 0, ""
    with rows.open("w") as file:
        for text in paragraphs(2):
            dice = source.random()
            if last and dice < _REPEATED:
                text = last if dice < _REPEATED / 2 else f"{last} again"
            last = text
            written += file.write(json.dumps({"text": text}) + "\n")
            if written >= half:
                return [plain, rows]
    raise AssertionError("paragraphs have no end")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server(None) as server:
        paths = write_upload(Path(name), arguments.megabytes)
        server.post_first(PROMPT)
        alone = [_seconds(server) for _ in range(200)]
        with _beside(lambda: _seconds(server)) as meanwhile, _peaks_of_children(server) as peaks:
            began = time.perf_counter()
            with paths[0].open("rb") as plain, paths[1].open("rb") as rows:
                files = [("files", (paths[0].name, plain)), ("files", (paths[1].name, rows))]
                answer = server.client.post("/add_data", files=files, data={"name": "large"}).raise_for_status().json()
            seconds = time.perf_counter() - began
        began = time.perf_counter()
        server.client.post("/add_data", json={"texts": ["a small one"]}).raise_for_status()
        small_s = time.perf_counter() - began
        size = sum(path.stat().st_size for path in paths)
        counts = {key: answer[key] for key in ("accepted", "duplicate", "near_duplicate", "rejected")}
        print(f"{size / 1e6:,.0f} MB: {counts}, splits {answer['splits']}")
        print(
            f"{seconds:.1f} s in all, {size / 1e6 / seconds:.1f} MB/s; the intake itself took {answer['seconds']:.1f} s"
        )
        server_mib = _high_water_mib(server.process)
        print(f"peak memory: server {server_mib:.0f} MiB, intake {max(peaks):.0f} MiB (goal: {GOAL_MIB} each)")
        print(f"/forward of 16 tokens: alone {_quantiles(alone)}; meanwhile {_quantiles(meanwhile)}")
        print(f"a small upload after it: {small_s:.2f} s")


def _seconds(server: RunningServer) -> float:
    began = time.perf_counter()
    server.client.post("/forward", json=PROMPT).raise_for_status()
    return time.perf_counter() - began


def _quantiles(values: list[float]) -> str:
    p99 = statistics.quantiles(values, n=100)[98]
    return f"median {1000 * statistics.median(values):.1f} ms, p99 {1000 * p99:.1f} ms ({len(values):,} requests)"


@contextmanager
def _beside(act: Callable[[], float]) -> Iterator[list[float]]:
    """Act again and again, ten times a second, while the block lasts."""
    values: list[float] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.1):
            values.append(act())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield values
    finally:
        over.set()
        thread.join()


@contextmanager
def _peaks_of_children(server: RunningServer) -> Iterator[list[float]]:
    """The highest memory of each look at the server's processes."""

    def look() -> float:
        return max((_high_water_mib(child) for child in server.process.children()), default=0.0)

    with _beside(look) as peaks:
        yield peaks


def _high_water_mib(process: psutil.Process) -> float:
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


if __name__ == "__main__":
    main()
