"""The result: Markdown tables with our ratio to the best peer, and a plot."""

from __future__ import annotations

import platform
from pathlib import Path

from benchmarks.serving.participants import OURS, Participant
from benchmarks.serving.rounds import QUIET_CORES, Block, Measured, Row
from benchmarks.serving.workloads import Workload
from lib.provenance import Commit, versions


def markdown(blocks: list[Block], works: list[Workload], facts: list[str]) -> str:
    """All tables, what was lacking, and under which circumstances."""
    parts = ["# Our engine beside its peers", "", *facts, ""]
    for block in blocks:
        parts += [f"## {block.shape}, {block.bits} bit", "", *_table(block, works), ""]
        parts += [f"- {line}" for row in block.rows for line in _remarks(row)]
        parts.append("")
    return "\n".join(parts)


def facts(date: str, commit: Commit, threads: int, rounds: int, is_quick: bool, others: list[Participant]) -> list[str]:
    """Date, processor and versions: figures of two machines cannot be compared."""
    pins = sorted({pin for participant in others for pin in participant.requirements if not pin.startswith("torch")})
    own = versions("onnxruntime", "torch", "transformers")
    return [
        f"{date}, commit {commit}; {processor()}, {threads} threads for everybody; Linux {platform.release()}.",
        f"Medians of {rounds} interleaved rounds{', quick and so a hint only' if is_quick else ''}; tokens generated a "
        "second of wall time, except the first token, in milliseconds. `agrees`: the share of 64 next tokens that are "
        "those of transformers in fp32. A star: other processes used more than "
        f"{QUIET_CORES} cores meanwhile in spite of repeats.",
        "",
        "Our environment: " + ", ".join(f"{name} {version}" for name, version in own.items()) + ".",
        "The peers': " + ", ".join(pin.replace("==", " ") for pin in pins) + ".",
    ]


def processor() -> str:
    """Its name as the kernel has it, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def ratio_to_best_peer(block: Block, work: Workload) -> float | None:
    """Above 1 we are ahead; with shared beginnings reused, ours stands against the best peer that reuses nothing."""
    ours = [row.measured[work].value for row in block.rows if row.participant.name == OURS and work in row.measured]
    against = Workload(work.kind, work.concurrency) if work.may_reuse_prefix else work
    peers = [
        row.measured[against].value for row in block.rows if row.participant.name != OURS and against in row.measured
    ]
    if not ours or not peers:
        return None
    return min(peers) / ours[0] if work.kind == "first_token" else ours[0] / max(peers)


def plot(blocks: list[Block], works: list[Workload], path: Path) -> None:
    """Tokens a second over the number of clients, a panel for each table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    mixed = [work for work in works if work.kind == "mixed"]
    figure, axes = pyplot.subplots(1, len(blocks), figsize=(4.5 * len(blocks), 4), squeeze=False, layout="constrained")
    for axis, block in zip(axes[0], blocks, strict=True):
        for row in block.rows:
            points = [(work.concurrency, row.measured[work].value) for work in mixed if work in row.measured]
            if points:
                is_ours = row.participant.name == OURS
                axis.plot(*zip(*points, strict=True), "o-", label=row.participant.name, linewidth=3 if is_ours else 1.2)
        axis.set_xscale("log", base=2)
        axis.set_xticks([work.concurrency for work in mixed], [str(work.concurrency) for work in mixed])
        axis.set_ylim(bottom=0)
        axis.set(title=f"{block.shape}, {block.bits} bit", xlabel="clients", ylabel="tokens a second")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _table(block: Block, works: list[Workload]) -> list[str]:
    lines = ["| | agrees | " + " | ".join(work.label for work in works) + " |", "|---" * (len(works) + 2) + "|"]
    for row in block.rows:
        agrees = "-" if row.agreement is None else f"{row.agreement:.0%}"
        cells = [_cell(row.measured.get(work)) for work in works]
        lines.append(f"| {row.participant.name} | {agrees} | " + " | ".join(cells) + " |")
    ratios = (ratio_to_best_peer(block, work) for work in works)
    lines.append(
        "| **ours ÷ best peer** | | " + " | ".join("-" if r is None else f"**{r:.2f}**" for r in ratios) + " |"
    )
    return lines


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    return f"{measured.value:,.0f}" + ("*" if measured.others_cores > QUIET_CORES else "")


def _remarks(row: Row) -> list[str]:
    remarks = [f"{row.participant.name}: {row.problem}."] if row.problem else []
    return remarks + [f"{row.participant.name}, {work.label}: {why}." for work, why in row.lacking.items()]
