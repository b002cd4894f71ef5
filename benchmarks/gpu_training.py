"""Training on a GPU: preset 1b's useful tokens a second, MFU and memory; base beside a plain loop."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from lib.corpora import standard_library
from lib.dataset_builder import BuildOptions, build_dataset
from lib.throughput import flops_per_token, matmul_parameters, peak_flops, peak_memory_mib
from ml_service.training.plan import TrainingPlan
from ml_service.training.workflow import build_training_artifacts, train

GOAL_TOKENS_PER_SECOND = 85_000
"""Of `1b` on one H200."""
VOCABULARY, WINDOW = 8192, 512
BATCHES = {"1b": 128, "base": 64}
"""Windows in an update. The optimizer's work is the same for few as for many: Muon's products weigh on small ones."""


def plan_of(preset: str, data: Path, run: Path, steps: int) -> TrainingPlan:
    """bf16 autocast over fp32 weights, compiled before the clock starts."""
    return TrainingPlan(
        data=data, run=run, preset=preset, steps=steps, window=WINDOW, batch_size=BATCHES[preset], precision="bf16",
        compile="on", evaluations=1, checkpoints=1, validation_tokens=65_536,
    )  # fmt: skip


def ours(plan: TrainingPlan) -> tuple[float, float]:
    """Useful tokens a second of the workflow, and floating-point operations a second that the model takes for them.

    Every position is a target, nothing is padding.
    """
    torch.compiler.reset()  # after one shape, another would be compiled for any shape
    artifacts = build_training_artifacts(plan)
    train(artifacts)
    assert plan.steps is not None, "the budget is in steps"
    rate = plan.steps * plan.tokens_per_step / artifacts.clock.pure_seconds
    config = artifacts.model.config
    return rate, rate * flops_per_token(config, matmul_parameters(artifacts.model, config), WINDOW)


def plain(plan: TrainingPlan) -> float:
    """The same network in the loop that everybody writes: autocast, compile, fused AdamW."""
    torch.compiler.reset()
    artifacts = build_training_artifacts(plan.model_copy(update={"optimizer": "adamw", "run": plan.run / "plain"}))
    model = artifacts.model.to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    started = 0.0
    assert plan.steps is not None, "the budget is in steps"
    for step in range(-5, plan.steps):  # the first ones compile
        if step == 0:
            torch.cuda.synchronize()
            started = time.perf_counter()
        samples = [artifacts.train_windows[(step + 5) * plan.batch_size + i] for i in range(plan.batch_size)]
        batch = {name: torch.stack([s[name] for s in samples]).to("cuda", non_blocking=True) for name in samples[0]}
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    return plan.steps * plan.tokens_per_step / (time.perf_counter() - started)


def main() -> None:
    """Measure, or say what would be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="updates of each measurement")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        for preset, batch in BATCHES.items():
            print(f"no GPU here: would train {preset}, {arguments.steps} updates of {batch} windows of {WINDOW} tokens")
        print(f"goals: 1b at {GOAL_TOKENS_PER_SECOND:,} tokens/s on one H200; base at least as fast as a plain loop")
        return
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        build_dataset(standard_library, data, BuildOptions(VOCABULARY))
        rate, used = ours(plan_of("1b", data, Path(name) / "1b", arguments.steps))
        peak = peak_flops(torch.bfloat16)
        share = f"{used / peak:.1%} MFU" if peak else f"{used / 1e12:.0f} TFLOPS"
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        print(f"1b: {rate:,.0f} tokens/s, {share}, {peak_memory_mib():,.0f} MiB; goal {GOAL_TOKENS_PER_SECOND:,}")
        plan = plan_of("base", data, Path(name) / "base", arguments.steps).model_copy(update={"optimizer": "adamw"})
        rates = ours(plan)[0], plain(plan)
        print(f"base: ours {rates[0]:,.0f}, plain {rates[1]:,.0f} tokens/s, ratio {rates[0] / rates[1]:.2f}; goal 1.0")


if __name__ == "__main__":
    main()
