"""The command: `python -m benchmarks.serving` measures our engine beside its peers and writes tables and a plot."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.serving.checkpoints import SHAPES
from benchmarks.serving.participants import PARTICIPANTS, Participant, participant_named
from benchmarks.serving.report import facts, markdown, plot
from benchmarks.serving.rounds import Block, Plan, measure_block
from benchmarks.serving.workloads import all_workloads
from lib.files import staged
from lib.provenance import current_commit
from ml_service.common.settings import PROJECT

RESULTS = Path(__file__).parent / "results"
EPILOG = """
The first run makes an environment for each peer under data/store/benchmarks (about 5 GB; llama.cpp is compiled, ten
minutes) and converts the models; both are kept. A participant that cannot be had stands in the table with its reason.
Let nothing else run meanwhile: a measurement beside other work is made again, and then marked.

  python -m benchmarks.serving --quick --shapes S --participants ours openvino-genai     three minutes, a hint
  python -m benchmarks.serving                                                          everything, more than an hour
"""


def main() -> None:
    """Measure, block by block; the report is written anew after each, so that an interrupted run leaves what it has."""
    arguments = _arguments()
    works = all_workloads()
    plan = Plan(1 if arguments.quick else arguments.rounds, arguments.threads, arguments.quick, arguments.store)
    now = datetime.now(UTC)
    report = arguments.output / f"{now:%Y-%m-%d}{'-quick' if arguments.quick else ''}.md"
    about = facts(
        f"{now:%Y-%m-%d %H:%M} UTC",
        current_commit(PROJECT),
        plan.threads,
        plan.rounds,
        plan.is_quick,
        arguments.participants,
    )
    blocks: list[Block] = []
    for shape in arguments.shapes:
        for bits in arguments.bits:
            blocks.append(measure_block(shape, bits, arguments.participants, works, plan))
            with staged(report) as temporary:
                temporary.write_text(markdown(blocks, works, about), encoding="utf-8")
            plot(blocks, works, report.with_suffix(".png"))
    print(markdown(blocks, works, about))
    print(f"written to {report} and {report.with_suffix('.png')}")


def _arguments() -> argparse.Namespace:
    names = ", ".join(participant.name for participant in PARTICIPANTS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=list(SHAPES),
        default=list(SHAPES),
        help="S: 8.6 million parameters; M: SmolLM2-135M's shape (default: both)",
    )
    parser.add_argument(
        "--bits", nargs="+", type=int, choices=[8, 4], default=[8, 4], help="of the weights (default: 8 4)"
    )
    parser.add_argument(
        "--participants",
        nargs="+",
        type=_participant,
        default=list(PARTICIPANTS),
        metavar="NAME",
        help=f"who takes part (default: {names})",
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are shown (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="for every participant (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one round with fewer requests: a hint, not a figure")
    parser.add_argument(
        "--store",
        type=Path,
        default=PROJECT / "data" / "store" / "benchmarks",
        help="environments, checkpoints, converted models, logs (default: data/store/benchmarks)",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the report (default: results/ here)")
    return parser.parse_args()


def _participant(name: str) -> Participant:
    try:
        return participant_named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
