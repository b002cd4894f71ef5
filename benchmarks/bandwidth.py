"""How near a step of one row comes to the memory's speed: what it must read, beside plain reads of as many bytes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch

from ml_service.common.bundle import GRAPH_FILE, load_architecture
from ml_service.common.settings import Settings
from ml_service.inference.caches import bytes_per_token
from ml_service.inference.fused_graph import FusedGraph
from ml_service.inference.live import arithmetic_for, open_session
from ml_service.inference.session import Row, prefill

CONTEXT = 128
REPEATS, ROUNDS = 60, 3
GOAL = 0.75
_PRODUCT_PARTS = ("/codes", "/scales", "/corrections")


def weight_bytes(bundle: Path) -> int:
    """What the products of a step read, whatever its tokens."""
    arrays = FusedGraph(onnx.load_model(bundle / GRAPH_FILE), 1, fuse_attention=True).arrays
    return sum(array.nbytes for name, array in arrays.items() if name.endswith(_PRODUCT_PARTS))


def read_plainly(data: torch.Tensor) -> float:
    """Seconds of the scalar product of a vector's halves: the fastest plain read that we know of."""
    half = len(data) // 2
    started = time.perf_counter()
    torch.dot(data[:half], data[half : 2 * half])
    return time.perf_counter() - started


def main() -> None:
    """Print the table; exit with 1 below the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle; its weights should exceed the caches")
    arguments = parser.parse_args()
    settings = Settings(slots=1)
    arithmetic = arithmetic_for(arguments.bundle, settings)
    if arithmetic.library is None:
        parser.exit(1, "there are no compiled operators here, or the weights are in fp32\n")
    cache_bytes = CONTEXT * bytes_per_token(load_architecture(arguments.bundle), arithmetic.cache_precision)
    size_bytes = weight_bytes(arguments.bundle) + cache_bytes
    torch.set_num_threads(settings.threads)
    data = torch.ones(size_bytes // 4)
    steps, reads = [], []
    for _ in range(ROUNDS):
        # One after the other: the runtime's threads spin for a while after a step and would slow the reads.
        reads += [read_plainly(data) for _ in range(REPEATS)]
        session = open_session(arguments.bundle, settings)
        prefill(session, 0, [1] * CONTEXT)
        for _ in range(REPEATS):
            started = time.perf_counter()
            session.run([Row(0, CONTEXT, [1])])
            steps.append(time.perf_counter() - started)
        session.close()
    step_s, read_s = float(np.median(steps)), float(np.median(reads))
    print(f"a step of one row must read  {size_bytes / 1e6:,.1f} MB of weights and cache")
    print(f"it takes                     {step_s * 1e3:.2f} ms: {size_bytes / step_s / 1e9:.1f} GB/s")
    print(f"a plain read, {settings.threads} threads     {read_s * 1e3:.2f} ms: {size_bytes / read_s / 1e9:.1f} GB/s")
    print(f"of the plain read's speed    {read_s / step_s:.2f}   goal {GOAL}")
    raise SystemExit(0 if read_s / step_s >= GOAL else 1)


if __name__ == "__main__":
    main()
