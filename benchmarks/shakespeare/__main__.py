"""Tiny Shakespeare beside nanoGPT's CPU recipe: bits per byte in a third of its time, and in the same time."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shakespeare.nanogpt import TRAINED
from ml_service.common.settings import PROJECT

DEFAULT_TEXT = PROJECT.parent / "shared/data/tinyshakespeare/input.txt"
GOAL_BITS_PER_BYTE = 2.30


@dataclass(frozen=True)
class Outcome:
    """One training."""

    seconds: float
    """From the start of the process, imports included, until the model is trained; not the scoring."""
    bits_per_byte: float
    parameters: int


def measure(module: str, *words: str) -> Outcome:
    """Run one of the two in a process of its own. Raises RuntimeError where it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.shakespeare.{module}", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None, "it was asked for"
    seconds = next((time.perf_counter() - started for line in process.stdout if line.strip() == TRAINED), 0.0)
    rest = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join(command)} failed: run it by hand")
    return Outcome(seconds, **json.loads(rest))


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=DEFAULT_TEXT, help="tiny Shakespeare, one file")
    parser.add_argument("--threads", default="2", help="for both")
    parser.add_argument("--seeds", default="0,1", help="of ours")
    arguments = parser.parse_args()
    words = [str(arguments.text), "--threads", arguments.threads]
    plain = measure("nanogpt", *words)
    _show("nanoGPT's recipe", plain)
    for share, name in ((3.0, "a third of its time"), (1.0, "the same time")):
        for seed in arguments.seeds.split(","):
            budget = plain.seconds / share
            own = measure("ours", *words, "--until", str(time.time() + budget), "--seed", seed)
            _show(f"ours, {name}, seed {seed}", own)
            ratios = own.seconds / plain.seconds, own.bits_per_byte / plain.bits_per_byte
            goal = plain.bits_per_byte if share > 1 else GOAL_BITS_PER_BYTE
            print(f"{'':<36} {ratios[0]:.3f} of its time, {ratios[1]:.3f} of its bits; goal {goal:.3f}")


def _show(name: str, outcome: Outcome) -> None:
    print(f"{name:<36} {outcome.seconds:6.1f} s  {outcome.bits_per_byte:.4f} bits per byte  {outcome.parameters:,}")


if __name__ == "__main__":
    main()
