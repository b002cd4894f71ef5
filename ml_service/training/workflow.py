"""The training workflow: a plan becomes artifacts, artifacts train; everything that learns comes through here."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, Qwen3ForCausalLM, TrainingArguments, set_seed
from transformers import ProgressCallback as TransformersProgressCallback
from transformers.integrations import TensorBoardCallback, is_mlflow_available
from transformers.utils import logging as transformers_logging

from lib.files import write_json
from lib.learning_rate import warmup_stable_decay
from lib.memory import keep_freed_pages
from lib.modeling import count_parameters, create_model
from lib.optimizer import MuonWithAdamW, adamw
from lib.packed_windows import FixedWindows, PackedWindows
from lib.provenance import current_commit, machine, now_utc, versions
from lib.token_shards import TOKENIZER_FILE, DatasetManifest, load_manifest, load_tokens
from lib.tokenizer import bytes_of_tokens, end_of_text_id, load_tokenizer
from lib.training_loop import BudgetCallback, LanguageModelTrainer, TrainingClock
from ml_service.common.errors import Conflict
from ml_service.training.plan import PLAN_FILE, TrainingPlan, load_plan
from ml_service.training.progress import PROGRESS_FILE, ProgressCallback, ProgressLog

RUN_FILE = "run.json"
MODEL_DIRECTORY = "model"
CHECKPOINTS_DIRECTORY = "checkpoints"
TENSORBOARD_DIRECTORY = "tensorboard"
LOG_EVERY_STEPS = 10
BF16_MUST_GAIN = 1.2
"""How much faster a product must be in bf16; less than that is noise, and fp32 is exact."""


@dataclass(frozen=True)
class TrainingArtifacts:
    """All that a run needs, made from its plan."""

    plan: TrainingPlan
    run: Path
    dataset: DatasetManifest
    tokenizer: Tokenizer
    train_windows: PackedWindows
    validation_windows: dict[str, FixedWindows]
    model: Qwen3ForCausalLM
    optimizer: torch.optim.Optimizer
    learning_rate: LambdaLR
    clock: TrainingClock
    arguments: TrainingArguments
    trainer: LanguageModelTrainer
    checkpoint: Path | None
    """Where an interrupted run goes on."""


def build_training_artifacts(plan: TrainingPlan, data: Path, run: Path, repository: Path) -> TrainingArtifacts:
    """Make everything that `train` needs. A run directory that holds the same plan is resumed.

    Raises Conflict where it holds another plan, FileNotFoundError or ValueError where the data does not fit.
    """
    set_seed(plan.seed)
    keep_freed_pages()
    transformers_logging.disable_progress_bar()
    dataset = load_manifest(data)
    facts = _facts_of(plan, dataset, run, repository)
    tokenizer = load_tokenizer(data / TOKENIZER_FILE)
    checkpoint = last_checkpoint(run)
    progress = ProgressLog(run / PROGRESS_FILE)
    resumed = progress.last() if is_finished(run) else progress.cut_after(_step_of(checkpoint))
    clock = TrainingClock(plan.budget, plan.tokens_per_step, resumed.seconds)
    windows = clock.max_steps * plan.batch_size * plan.accumulation
    train_windows = PackedWindows(load_tokens(data, "train"), plan.mixture, plan.window, windows, plan.seed)
    validation_windows = _validation_windows(data, plan)
    model = create_model(plan.preset, dataset.vocabulary_size, plan.window, end_of_text_id(tokenizer))
    optimizer = _optimizer(plan, model)
    learning_rate = LambdaLR(
        optimizer,
        lambda step: warmup_stable_decay(clock.progress(step), plan.warmup_share, plan.decay_share),
    )
    arguments = _arguments(plan, run, clock, facts["autocast"])
    trainer = LanguageModelTrainer(
        model=model,
        args=arguments,
        train_dataset=train_windows,
        optimizers=(optimizer, learning_rate),
        callbacks=[
            BudgetCallback(clock, plan.evaluations, plan.checkpoints),
            ProgressCallback(progress, clock),
            # What an interrupted run wrote after its last checkpoint is purged, so the curves have no doubles.
            TensorBoardCallback(SummaryWriter(str(run / TENSORBOARD_DIRECTORY), purge_step=resumed.step + 1)),
        ],
        validation=validation_windows,
        bytes_of_token=np.array(bytes_of_tokens(tokenizer), dtype=np.int64),
    )
    for noisy in (PrinterCallback, TransformersProgressCallback):
        trainer.remove_callback(noisy)
    _begin_run(plan, facts, run)
    return TrainingArtifacts(
        plan, run, dataset, tokenizer, train_windows, validation_windows,
        model, optimizer, learning_rate, clock, arguments, trainer, checkpoint,
    )  # fmt: skip


def train(artifacts: TrainingArtifacts) -> Path:
    """Train until the budget is spent; returns the directory of the trained model (safetensors, config, tokenizer).

    A run that is already complete is left as it is.
    """
    model_directory = artifacts.run / MODEL_DIRECTORY
    if is_finished(artifacts.run):
        return model_directory
    artifacts.trainer.train(resume_from_checkpoint=str(artifacts.checkpoint) if artifacts.checkpoint else None)
    staging = artifacts.run / f".{MODEL_DIRECTORY}"
    shutil.rmtree(staging, ignore_errors=True)
    artifacts.model.save_pretrained(staging)
    artifacts.tokenizer.save(str(staging / TOKENIZER_FILE))
    _finish_run(artifacts)
    staging.replace(model_directory)
    shutil.rmtree(artifacts.run / CHECKPOINTS_DIRECTORY, ignore_errors=True)
    return model_directory


def is_finished(run: Path) -> bool:
    """Whether the run has its trained model, which is its last file."""
    return (run / MODEL_DIRECTORY).is_dir()


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that was written to its end: `trainer_state.json` comes last and must be readable."""
    checkpoints = sorted((run / CHECKPOINTS_DIRECTORY).glob("checkpoint-*"), key=_step_of, reverse=True)
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # cut short by a kill: the one before is whole
        return checkpoint
    return None


def _step_of(checkpoint: Path | None) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name) if checkpoint else None
    return int(match[1]) if match else 0


def _facts_of(plan: TrainingPlan, dataset: DatasetManifest, run: Path, repository: Path) -> dict[str, Any]:
    """The facts of a new run, or of the one that is there. Raises Conflict where that one has another plan or data.

    What `auto` measured is a fact of the run: a resumed one must not compute otherwise than it began.
    """
    if (run / PLAN_FILE).is_file():
        if load_plan(run) != plan:
            raise Conflict(f"{run} holds a run with another plan: choose another directory, or give the same plan")
        facts: dict[str, Any] = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
        if facts["dataset_fingerprint"] != dataset.fingerprint:
            raise Conflict(f"{run} was begun on another data set: a run goes on with the data that it began with")
        return facts
    return {
        "started": now_utc(),
        "commit": str(current_commit(repository)),
        "autocast": "bf16" if _wants_bf16(plan) else "none",
        "dataset_fingerprint": dataset.fingerprint,
        "dataset": dataset.model_dump(),
        "versions": versions("torch", "transformers", "tokenizers"),
        "machine": machine(),
    }


def _begin_run(plan: TrainingPlan, facts: dict[str, Any], run: Path) -> None:
    """Write a new run's files, the plan last: a plan that could not be built leaves none behind."""
    if not (run / PLAN_FILE).is_file():
        write_json(run / RUN_FILE, facts)
        write_json(run / PLAN_FILE, plan.model_dump(mode="json"))


def _finish_run(artifacts: TrainingArtifacts) -> None:
    path = artifacts.run / RUN_FILE
    run = json.loads(path.read_text(encoding="utf-8"))
    state = artifacts.trainer.state
    run |= {
        "finished": now_utc(),
        "seconds": round(artifacts.clock.seconds, 1),
        "steps": state.global_step,
        "tokens": state.global_step * artifacts.plan.tokens_per_step,
        "parameters": count_parameters(artifacts.model),
    }
    write_json(path, run)


def _validation_windows(data: Path, plan: TrainingPlan) -> dict[str, FixedWindows]:
    usable = [part for part in load_tokens(data, "validation") if len(part.tokens) > plan.window]
    if not usable:
        raise ValueError(f"no validation source has a whole window of {plan.window} tokens: add data, or shorten it")
    return {part.source: FixedWindows(part, plan.window, plan.validation_tokens) for part in usable}


def _optimizer(plan: TrainingPlan, model: Qwen3ForCausalLM) -> torch.optim.Optimizer:
    if plan.optimizer == "adamw":
        return adamw(model, plan.learning_rate, plan.weight_decay)
    return MuonWithAdamW(model, plan.learning_rate, plan.muon_learning_rate, plan.weight_decay)


def _arguments(plan: TrainingPlan, run: Path, clock: TrainingClock, autocast: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(run / CHECKPOINTS_DIRECTORY),
        max_steps=clock.max_steps,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.accumulation,
        train_sampling_strategy="sequential",
        bf16=autocast == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=2,
        logging_steps=LOG_EVERY_STEPS,
        report_to=_reporters(),
        run_name=plan.experiment,
        seed=plan.seed,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )


def _reporters() -> list[str]:
    """Where else the curves go. Raises ValueError where MLflow is asked for and not installed."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return []
    if not is_mlflow_available():
        raise ValueError("MLFLOW_TRACKING_URI is set and MLflow is missing: pip install 'ml-service[mlflow]'")
    return ["mlflow"]


def _wants_bf16(plan: TrainingPlan) -> bool:
    if plan.precision != "auto":
        return plan.precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return _seconds_of_product(torch.float32) > BF16_MUST_GAIN * _seconds_of_product(torch.bfloat16)


def _seconds_of_product(dtype: torch.dtype) -> float:
    """The best of ten products of the size that training has; a processor may have bf16 and be slower with it."""
    left, right = torch.ones(4096, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return min(seconds)
