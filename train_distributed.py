"""Training on one process or many machines, under `torchrun`: baseline, DDP, FSDP2, DeepSpeed; and their comparison."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.interruption import TrainingStopped
from lib.strategy import Strategy
from lib.token_shards import MANIFEST_FILE
from ml_service.common.errors import ServiceError
from ml_service.training.plan import TrainingPlan

DEFAULT_SECONDS = 1800.0
EXAMPLES = """examples:
  python train_distributed.py --mode baseline --data-dir DATA --output-dir out --max-steps 50
  torchrun --nproc-per-node 2 train_distributed.py --mode ddp --data-dir DATA --output-dir out --max-steps 50
  torchrun --nproc-per-node 2 train_distributed.py --mode fsdp --fsdp-sharding-strategy shard_grad_op …
  python train_distributed.py --compare --output-dir out

Two machines: the same command on both, with --nnodes 2 --node-rank 0 (1 on the other) --master-addr HOST
--master-port 29500 for torchrun; the output directory must be shared. DATA is a directory that
`ml-service corpus build` made, or one of tokenised Parquet files.
"""


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; `--eval-steps` and `--save-steps` are None unless given."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=("baseline", "ddp", "fsdp", "deepspeed"), default="baseline")
    parser.add_argument("--compare", action="store_true", help="train nothing: compare the runs in --output-dir")
    group = parser.add_argument_group("DeepSpeed")
    group.add_argument("--deepspeed-stage", type=int, choices=(1, 2, 3), default=2, help="ZeRO's stage (2)")
    group.add_argument("--offload-optimizer", action="store_true", help="optimizer state in the machine's memory")
    group.add_argument("--offload-params", action="store_true", help="parameters too; stage 3 only")
    group = parser.add_argument_group("FSDP2")
    group.add_argument(
        "--fsdp-sharding-strategy", type=str.lower, default="full_shard",
        choices=("full_shard", "shard_grad_op", "hybrid_shard"), help="what is sharded, and among whom (full_shard)",
    )  # fmt: skip
    group.add_argument("--fsdp-cpu-offload", action="store_true", help="parameters and state in the machine's memory")
    group.add_argument("--fsdp-activation-checkpointing", action="store_true", help="compute activations anew")
    group.add_argument(
        "--fsdp-state-dict-type", type=str.lower, choices=("sharded", "full"), default="sharded",
        help="checkpoints of a file for each rank, or of one file (sharded)",
    )  # fmt: skip
    group = parser.add_argument_group("training")
    group.add_argument("--bf16", action="store_true", help="bf16 autocast over fp32 weights")
    group.add_argument("--torch-compile", action="store_true", help="compile the network before the clock starts")
    group.add_argument("--batch-size", type=int, default=8, help="windows in a forward pass of one process (8)")
    group.add_argument("--grad-accum", type=int, default=1, help="forward passes in an update (1)")
    group.add_argument("--max-steps", type=int, help="updates; without it, --timeout alone is the budget")
    group.add_argument("--eval-steps", type=int, help="updates between evaluations (a tenth of the budget)")
    group.add_argument("--save-steps", type=int, help="updates between checkpoints (a tenth of the budget)")
    group.add_argument("--timeout", type=float, default=DEFAULT_SECONDS, help="the most seconds to train (1800)")
    group.add_argument("--learning-rate", type=float, default=3e-4, help="peak of AdamW (0.0003)")
    group.add_argument("--preset", default="nano", help="shape of the model: pico, nano, mini, small, base, 1b (nano)")
    group.add_argument("--window", type=int, default=512, help="tokens of a sample (512)")
    group.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--hang-timeout",
        type=float,
        default=600.0,
        help="seconds that a rank waits for the others (600)",
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--run-name", help="directory below --output-dir; mode and number of processes by default")
    group.add_argument("--no-wandb", action="store_true", help="nothing to Weights & Biases, key or not")
    group.add_argument("--data-dir", type=Path, default=Path("data/store/corpora/default"))
    group.add_argument("--output-dir", type=Path, default=Path("data/store/distributed"))
    group.add_argument("--no-generation", action="store_true", help="write no continuation when all is done")
    group.add_argument("--generation-prompt", default="import os\n\n\ndef ", help="what is continued then")
    return parser.parse_args(arguments)


def plan_of(given: argparse.Namespace, processes: int) -> TrainingPlan:
    """The plan that these arguments mean. Raises ValueError in words."""
    strategy = Strategy(
        mode=given.mode,
        fsdp_sharding=given.fsdp_sharding_strategy,
        fsdp_cpu_offload=given.fsdp_cpu_offload,
        fsdp_activation_checkpointing=given.fsdp_activation_checkpointing,
        fsdp_state_dict=given.fsdp_state_dict_type,
        deepspeed_stage=given.deepspeed_stage,
        deepspeed_offload_optimizer=given.offload_optimizer,
        deepspeed_offload_parameters=given.offload_params,
        timeout_s=given.hang_timeout,
    )
    name = given.run_name or f"{given.mode}-{processes}"
    budget = {"seconds": given.timeout} if given.max_steps is None else {"steps": given.max_steps}
    return TrainingPlan(
        data=given.data_dir,
        run=given.output_dir / name,
        strategy=strategy,
        experiment=name,
        preset=given.preset,
        time_limit_s=given.timeout,
        window=given.window,
        batch_size=given.batch_size * processes,
        accumulation=given.grad_accum,
        optimizer=given.optimizer,
        learning_rate=given.learning_rate,
        precision="bf16" if given.bf16 else "fp32",
        compile="on" if given.torch_compile else "off",
        evaluation_steps=given.eval_steps,
        checkpoint_steps=given.save_steps,
        seed=given.seed,
        **budget,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or compare; an error is one clear line."""
    given = parse_args(arguments)
    try:
        if given.compare:
            from ml_service.training.comparison import compare

            print(compare(given.output_dir))
        else:
            run(given)
    except TrainingStopped as stopped:
        _end(str(stopped), stopped.exit_code, at_once=stopped.ends_at_once)
    except (ServiceError, OSError, ValueError, ImportError) as error:
        _end(str(error), 1)


def run(given: argparse.Namespace) -> None:
    """Train on the processes that `torchrun` started (or on this one), then tell what was measured."""
    from lib.distributed import agree, is_first, process_group, world_size
    from ml_service.training.distributed_run import measured_training, write_continuation

    if given.no_wandb:
        os.environ["WANDB_DISABLED"] = "true"
    plan = plan_of(given, world_size())
    with process_group(plan.strategy):
        data = data_set_of(plan.data) if is_first() else plan.data
        agree(0.0)  # the others wait until it is there
        data = data_set_of(plan.data) if not is_first() else data
        result = measured_training(plan.model_copy(update={"data": data}))
    if is_first():
        from ml_service.training.comparison import table

        print(table([result]))
        if not given.no_generation:
            write_continuation(plan.run, given.generation_prompt, sys.stdout)


def data_set_of(directory: Path) -> Path:
    """The directory itself, or what its tokenised Parquet files make when their padding is left out."""
    if (directory / MANIFEST_FILE).is_file() or not any(directory.glob("*.parquet")):
        return directory
    import solution  # only the homework's files need its tokenizer

    return solution.packed_data(solution.prepare_tokenizer(), str(directory))


def _end(message: str, code: int, *, at_once: bool = False) -> None:
    print(f"train_distributed, rank {os.environ.get('RANK', '0')}: {message}", file=sys.stderr, flush=True)
    if at_once:
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
