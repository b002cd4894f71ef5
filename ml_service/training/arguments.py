"""What the Trainer is told: a plan in the words of `TrainingArguments`, and which precision pays here."""

from __future__ import annotations

import os

import torch
from transformers import TrainingArguments
from transformers.integrations import is_mlflow_available

from lib.deepspeed import deepspeed_config
from lib.distributed import is_first, world_size
from lib.throughput import bf16_gain
from lib.training_clock import TrainingClock
from ml_service.training.plan import TrainingPlan
from ml_service.training.run_files import CHECKPOINTS_DIRECTORY, KEPT_CHECKPOINTS

LOG_EVERY_STEPS = 10
BF16_MUST_GAIN = 1.2
"""How much faster a product must be in bf16; less than that is noise, and fp32 is exact."""


def arguments_of(plan: TrainingPlan, clock: TrainingClock, in_bf16: bool) -> TrainingArguments:
    """Raises ValueError where the windows of a pass cannot be shared equally, or MLflow is asked for and missing."""
    if plan.batch_size % world_size():
        raise ValueError(f"batch_size {plan.batch_size} cannot be shared equally by {world_size()} processes")
    windows = plan.batch_size // world_size()
    arguments = TrainingArguments(
        output_dir=str(plan.run / CHECKPOINTS_DIRECTORY),
        max_steps=clock.max_steps,
        per_device_train_batch_size=windows,
        per_device_eval_batch_size=windows,
        gradient_accumulation_steps=plan.accumulation,
        train_sampling_strategy="sequential",
        bf16=in_bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=KEPT_CHECKPOINTS,
        logging_steps=LOG_EVERY_STEPS,
        logging_nan_inf_filter=False,
        report_to=_reporters(),
        run_name=plan.experiment,
        seed=plan.seed,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        accelerator_config={"non_blocking": torch.cuda.is_available()},  # a batch must not wait for the step before
        remove_unused_columns=False,
        ddp_timeout=int(plan.strategy.timeout_s),
        ddp_find_unused_parameters=False,
        deepspeed=deepspeed_config(plan.strategy) if plan.strategy.mode == "deepspeed" else None,
    )
    # Of several GPUs without torchrun the Trainer would use all, with as many times the windows that the plan has.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _reporters() -> list[str]:
    """Where else the curves go. Raises ValueError where MLflow is asked for and not installed."""
    if not os.environ.get("MLFLOW_TRACKING_URI") or not is_first():
        return []
    if not is_mlflow_available():
        raise ValueError("MLFLOW_TRACKING_URI is set and MLflow is missing: pip install 'ml-service[mlflow]'")
    return ["mlflow"]


def autocast_of(plan: TrainingPlan) -> str:
    """What computes a new run: `bf16` or `none`; measured where the plan leaves it open."""
    if plan.precision != "auto":
        return "bf16" if plan.precision == "bf16" else "none"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "none"
    return "bf16" if bf16_gain() > BF16_MUST_GAIN else "none"
