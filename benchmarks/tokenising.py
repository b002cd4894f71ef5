"""Reading, deduplicating, tokenising and packing text: megabytes a second, and memory for two sizes of a corpus."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lib.dataset_builder import BuildOptions, build_dataset
from lib.text_data import SourceFile

GOAL_MB_A_SECOND = 5.0


def sources(megabytes: float) -> Iterator[SourceFile]:
    """Python files of the installed packages, in the order of their names, until there are so many bytes."""
    root, left = Path(sysconfig.get_path("purelib")), megabytes * 1e6
    for path in sorted(root.rglob("*.py")):
        if left <= 0:
            return
        left -= path.stat().st_size
        yield SourceFile(path, path.relative_to(root).as_posix(), "packages")
    raise SystemExit(f"{root} has only {megabytes - left / 1e6:.0f} MB: ask for less")


def measure(megabytes: float) -> None:
    """Build a data set in this process and print what it took, as JSON."""
    base_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    phases: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()

        def report(phase: str, _: int) -> None:
            phases[phase] = time.perf_counter() - started

        manifest = build_dataset(lambda: sources(megabytes), Path(directory) / "data", BuildOptions(report=report))
        seconds = time.perf_counter() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = sum(part.tokens for parts in manifest.parts.values() for part in parts.values())
    print(
        json.dumps({"seconds": seconds, "base_mib": base_mib, "peak_mib": peak_mib, "tokens": tokens, "phases": phases})
    )


def main() -> None:
    """Print the table; each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", default="25,100", help="sizes of the corpus")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one)
        return
    for size in map(float, arguments.megabytes.split(",")):
        command = [sys.executable, "-m", "benchmarks.tokenising", "--one", str(size)]
        done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rate = size / done["seconds"]
        ends = ", ".join(f"{phase} until {end:.1f} s" for phase, end in done["phases"].items())
        print(f"{size:5.0f} MB  {rate:5.1f} MB/s (goal {GOAL_MB_A_SECOND})  peak {done['peak_mib']:,.0f} MiB  {ends}")


if __name__ == "__main__":
    main()
