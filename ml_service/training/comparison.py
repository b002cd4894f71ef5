"""Runs on one and several processes side by side: what was measured, beside what theory says; a table and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.files import write_json
from lib.strategy import Strategy
from ml_service.training.progress import ProgressLog
from ml_service.training.run_files import PROGRESS_FILE

RESULT_FILE = "distributed.json"
PLOT_FILE = "comparison.png"
TABLE_FILE = "comparison.md"
_WEIGHT, _GRADIENT, _ADAM_STATE = 4, 4, 8
"""Bytes a parameter in fp32: 16 together."""


@dataclass(frozen=True)
class Result:
    """What one run measured."""

    name: str
    mode: str
    processes: int
    samples: int
    """Windows that were trained on, all processes together."""
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_mib: float
    """Of the process that held the most, all that it held."""
    model_memory_mib: float
    """By theory: weights, gradients and optimizer state of one process."""
    evaluation_loss: float
    bits_per_byte: float


def theory_bytes(parameters: int, strategy: Strategy, processes: int, processes_on_a_machine: int) -> float:
    """Weights, gradients and AdamW's state that one process keeps in fp32, off-loaded ones included.

    16 bytes a parameter, divided as the strategy divides them (Rajbhandari et al. 2020, ZeRO).
    """
    kept = _WEIGHT + _GRADIENT + _ADAM_STATE
    if strategy.mode == "fsdp":
        shards = processes_on_a_machine if strategy.fsdp_sharding == "hybrid_shard" else processes
        whole = _WEIGHT if strategy.fsdp_sharding == "shard_grad_op" else 0
        return parameters * (whole + (kept - whole) / shards)
    if strategy.mode == "deepspeed":
        whole = {1: _WEIGHT + _GRADIENT, 2: _WEIGHT, 3: 0}[strategy.deepspeed_stage]
        return parameters * (whole + (kept - whole) / processes)
    return float(parameters * kept)


def save_result(run: Path, result: Result) -> None:
    """Write `distributed.json` into the run's directory."""
    write_json(run / RESULT_FILE, asdict(result))


def load_results(output: Path) -> dict[Path, Result]:
    """The results of all runs below a directory, the single process first. Raises FileNotFoundError in words."""
    found = {
        path.parent: Result(**json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(output.glob(f"*/{RESULT_FILE}"))
    }
    if not found:
        raise FileNotFoundError(f"{output} has no finished run to compare: train with --mode baseline, ddp, fsdp first")
    return dict(sorted(found.items(), key=lambda item: (item[1].processes, item[1].mode, item[1].name)))


def table(results: Sequence[Result]) -> str:
    """Markdown; rates and losses beside those of the first one, which should be the single process."""
    first = results[0]
    lines = [
        "| run | mode | processes | samples | tokens | seconds | tokens/s | of the first | peak MiB | theory MiB "
        "| loss | bits/byte |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        values = (
            one.name, one.mode, one.processes, f"{one.samples:,}", f"{one.tokens:,}", f"{one.seconds:.1f}",
            f"{one.tokens_per_second:,.0f}", f"{one.tokens_per_second / first.tokens_per_second:.2f}",
            f"{one.peak_memory_mib:,.0f}", f"{one.model_memory_mib:,.0f}", f"{one.evaluation_loss:.4f}",
            f"{one.bits_per_byte:.4f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines)


def compare(output: Path) -> str:
    """Write table and plots for all runs below `output`; returns the table."""
    found = load_results(output)
    text = table(list(found.values()))
    (output / TABLE_FILE).write_text(text + "\n", encoding="utf-8")
    _plot(found, output / PLOT_FILE)
    return text


def _plot(found: dict[Path, Result], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, ((losses, rates), (memory, quality)) = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    names = [one.name for one in found.values()]
    for run, one in found.items():
        points = [p for p in ProgressLog(run / PROGRESS_FILE).points() if "train_loss" in p]
        losses.plot([p["tokens"] for p in points], [p["train_loss"] for p in points], label=one.name)
    losses.set(title="training loss", xlabel="tokens", ylabel="nats a token")
    losses.legend()
    rates.barh(names, [one.tokens_per_second for one in found.values()])
    rates.set(title="throughput", xlabel="tokens a second")
    memory.barh(names, [one.peak_memory_mib for one in found.values()], label="measured, the whole process")
    memory.barh(names, [one.model_memory_mib for one in found.values()], height=0.4, label="theory, the model alone")
    memory.set(title="memory of a process", xlabel="MiB")
    memory.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    quality.barh(names, [one.evaluation_loss for one in found.values()])
    quality.set(title="evaluation loss", xlabel="nats a token")
    for axes in (rates, memory, quality):
        axes.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)
