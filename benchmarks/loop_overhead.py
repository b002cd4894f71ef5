"""What our training loop costs over a bare PyTorch loop: the same network, windows, optimizer and clipping."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from lib.corpora import folder
from lib.dataset_builder import BuildOptions, build_dataset
from ml_service.training.plan import TrainingPlan
from ml_service.training.workflow import TrainingArtifacts, build_training_artifacts, train

GOAL = 1.05
SHAPES = {"pico": (128, 16, 512), "nano": (512, 8, 8192)}
"""Preset → window, batch, vocabulary: a step of a tenth of a second, and one of half a second."""


def bare(artifacts: TrainingArtifacts, steps: int) -> float:
    """Seconds a step of a loop that does what must be done and no more."""
    model, optimizer, plan = artifacts.model, artifacts.optimizer, artifacts.plan
    seconds = 0.0
    for step in range(-1, steps):
        started = time.perf_counter()
        samples = [artifacts.train_windows[(step + 1) * plan.batch_size + i] for i in range(plan.batch_size)]
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        with torch.autocast("cpu", torch.bfloat16, enabled=artifacts.arguments.bf16):
            loss = model(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        artifacts.learning_rate.step()
        optimizer.zero_grad()
        if step >= 0:  # the first one warms up
            seconds += time.perf_counter() - started
    return seconds / steps


def ours(artifacts: TrainingArtifacts, steps: int) -> float:
    """Seconds a step of `train`, with its log and callbacks, without the evaluation and checkpoint at its end."""
    train(artifacts)
    return artifacts.clock.pure_seconds / steps


def main() -> None:
    """Print seconds a step and the ratio for each shape; rounds take turns, medians are told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for preset, (window, batch, vocabulary) in SHAPES.items():
            data = Path(name) / f"data-{vocabulary}"
            build_dataset(lambda: folder(Path(torch.__file__).parent / "nn"), data, BuildOptions(vocabulary, 0.1))
            seconds: dict[str, list[float]] = {"bare": [], "ours": []}
            for turn in range(arguments.rounds):
                for kind, measure in (("bare", bare), ("ours", ours)):
                    plan = TrainingPlan(
                        data=data, run=Path(name) / f"{preset}-{turn}-{kind}", preset=preset, steps=arguments.steps,
                        window=window, batch_size=batch, evaluations=1, checkpoints=1, validation_tokens=1024,
                        precision="fp32",
                    )  # fmt: skip
                    seconds[kind].append(measure(build_training_artifacts(plan), arguments.steps))
            plain, own = (statistics.median(seconds[kind]) for kind in ("bare", "ours"))
            times = f"bare {plain * 1e3:.1f} ms, ours {own * 1e3:.1f} ms a step"
            print(f"{preset}: {times}, ratio {own / plain:.3f}, goal {GOAL}")


if __name__ == "__main__":
    main()
