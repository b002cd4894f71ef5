"""Memory of a batch: the server's resident MiB while it answers a file of 1,000 rows and one of 100,000, either way."""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import RunningServer, running_server

_LOOK_EVERY_S = 0.02
_WORDS = "value total count name path item line text index result buffer size".split()
ACCEPTS = {"JSON": "application/json", "NDJSON": "application/x-ndjson"}


@dataclass
class Highest:
    """The most that was seen."""

    mib: float = 0.0


@contextmanager
def highest_of(server: RunningServer) -> Iterator[Highest]:
    """What the server held at most within the block."""
    highest, is_over = Highest(), threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            highest.mib = max(highest.mib, server.resident_mib())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield highest
    finally:
        is_over.set()
        watcher.join()


def ask(server: RunningServer, rows: Path, accept: str, tokens: int) -> int:
    """Send the file and read the answer piece by piece; how many rows were answered, and none with an error."""
    answered, rest = 0, b""
    with rows.open("rb") as file:
        form = {"max_new_tokens": str(tokens)}
        headers = {"Accept": accept}
        with server.client.stream("POST", "/forward_batch", files={"file": file}, data=form, headers=headers) as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw():
                answered += (rest + piece).count(b'"finish_reason"') - rest.count(b'"finish_reason"')
                if b'"error"' in rest + piece:
                    raise SystemExit("a row failed")
                rest = piece[-20:]
    return answered


def write_rows(path: Path, rows: int) -> None:
    """Prompts of words, no two alike."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            words = (_WORDS[number // len(_WORDS) ** place % len(_WORDS)] for place in range(6))
            file.write(json.dumps({"text": f"def {'_'.join(words)}(", "id": f"row-{number}"}) + "\n")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--rows", default="1000,100000", help="rows of the files, one after the other")
    parser.add_argument("--tokens", type=int, default=1, help="tokens of each answer")
    arguments = parser.parse_args()
    print(f"{'rows':>8} {'answer':>8} {'seconds':>9} {'rows/s':>8} {'before, MiB':>12} {'highest':>9} {'after':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for rows in (int(number) for number in arguments.rows.split(",")):
            path = Path(folder) / f"{rows}.jsonl"
            write_rows(path, rows)
            for name, accept in ACCEPTS.items():
                with running_server(arguments.bundle.resolve()) as server:  # a new one: memory stays with a process
                    server.post_first({"text": "def", "max_new_tokens": arguments.tokens})
                    before, start = server.resident_mib(), time.perf_counter()
                    with highest_of(server) as highest:
                        answered = ask(server, path, accept, arguments.tokens)
                    seconds, after = time.perf_counter() - start, server.resident_mib()
                if answered != rows:
                    raise SystemExit(f"{answered} of {rows} rows were answered")
                print(
                    f"{rows:>8,} {name:>8} {seconds:>9.1f} {rows / seconds:>8,.0f} {before:>12,.0f} "
                    f"{highest.mib:>9,.0f} {after:>7,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
