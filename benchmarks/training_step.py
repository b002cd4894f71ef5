"""What a training step costs: freed pages kept or not, fp32 or bf16; forward and backward, and Muon."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

WINDOW, BATCH = 1024, 8
VARIANTS = {
    "freed pages mapped anew, fp32": ("plain", "fp32"),
    "kept, fp32": ("kept", "fp32"),
    "kept, bf16": ("kept", "bf16"),
}


def measure(allocator: str, precision: str, preset: str, steps: int) -> None:
    """Print the median seconds of forward and backward, and of the optimizer."""
    import torch

    from lib.memory import keep_freed_pages
    from lib.modeling import create_model
    from lib.optimizer import MuonWithAdamW

    if allocator == "kept":
        keep_freed_pages()
    model = create_model(preset, 8192, WINDOW, 0)
    optimizer = MuonWithAdamW(model, 1e-3, 1e-2, 0.1)
    passes, updates = [], []
    for _ in range(steps + 1):
        ids = torch.randint(0, 8192, (BATCH, WINDOW))
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
        passed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        passes.append(passed - started)
        updates.append(time.perf_counter() - passed)
    print(statistics.median(passes[1:]), statistics.median(updates[1:]))


def main() -> None:
    """Each variant in a process of its own: the allocator cannot be asked twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="mini", help="shape of the model")
    parser.add_argument("--steps", type=int, default=5, help="steps to measure")
    parser.add_argument("--variant", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        measure(*arguments.variant, arguments.preset, arguments.steps)
        return
    first = 0.0
    for label, variant in VARIANTS.items():
        words = [sys.executable, "-m", "benchmarks.training_step", "--preset", arguments.preset]
        words += ["--steps", str(arguments.steps), "--variant", *variant]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        passed, update = map(float, done.stdout.split())
        first = first or passed
        rate = WINDOW * BATCH / (passed + update)
        print(f"{label:<32} {passed:6.2f} s ({passed / first:4.2f})  Muon {update:5.2f} s  {rate:7,.0f} tokens/s")


if __name__ == "__main__":
    main()
