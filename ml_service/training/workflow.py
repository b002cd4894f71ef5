"""The training workflow: a plan becomes artifacts, artifacts train; everything that learns comes through here."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers import ProgressCallback as TransformersProgressCallback
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from lib.distributed import agree, is_first, shard, world_size
from lib.files import is_disk_error, sha256_of_file
from lib.interruption import CheckpointFailed, Interrupted, Interruption
from lib.language_model_trainer import LanguageModelTrainer
from lib.learning_rate import warmup_stable_decay
from lib.memory import keep_freed_pages
from lib.modeling import LanguageModel, count_parameters, create_model
from lib.optimizer import MuonWithAdamW, adamw
from lib.packed_windows import FixedWindows, PackedWindows, Sample
from lib.sharded_checkpoints import full_weights
from lib.throughput import flops_per_token, matmul_parameters, peak_flops, peak_memory_mib
from lib.token_shards import TOKENIZER_FILE, DatasetManifest, load_manifest, load_tokens
from lib.tokenizer import bytes_of_tokens, end_of_text_id, load_tokenizer
from lib.training_clock import BudgetCallback, Often, TrainingClock
from ml_service.training.arguments import arguments_of, autocast_of
from ml_service.training.plan import TrainingPlan
from ml_service.training.progress import ProgressCallback, ProgressLog, Rates
from ml_service.training.run_files import (
    CHECKPOINTS_DIRECTORY,
    MODEL_DIRECTORY,
    PROGRESS_FILE,
    STOP_FILE,
    TENSORBOARD_DIRECTORY,
    WEIGHTS_FILE,
    begin_run,
    check_room,
    facts_of,
    finish_run,
    is_finished,
    last_checkpoint,
    step_of,
)

_BYTES_A_PARAMETER = 12
"""Of a checkpoint: the weight and two moments in fp32."""


@dataclass(frozen=True)
class TrainingArtifacts:
    """All that a run needs, made from its plan."""

    plan: TrainingPlan
    dataset: DatasetManifest
    tokenizer: Tokenizer
    train_windows: PackedWindows
    validation_windows: dict[str, FixedWindows]
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    learning_rate: LambdaLR
    clock: TrainingClock
    arguments: TrainingArguments
    trainer: LanguageModelTrainer
    interruption: Interruption
    checkpoint: Path | None
    """Where an interrupted run goes on."""


def build_training_artifacts(plan: TrainingPlan) -> TrainingArtifacts:
    """Make everything that `train` needs. A run directory that holds the same plan is resumed.

    With several processes each calls it, inside of `lib.distributed.process_group`. Raises Conflict where the run's
    directory holds another plan, InsufficientStorage where there is no room for its checkpoints, FileNotFoundError or
    ValueError where the data does not fit.
    """
    set_seed(plan.seed)
    keep_freed_pages()
    transformers_logging.disable_progress_bar()
    dataset = load_manifest(plan.data)
    facts = facts_of(plan, dataset, autocast_of)
    tokenizer = load_tokenizer(plan.data / TOKENIZER_FILE)
    end_id = _end_id_of(tokenizer, dataset)
    checkpoint = last_checkpoint(plan.run)
    progress = ProgressLog(plan.run / PROGRESS_FILE)
    is_new = is_first() and not is_finished(plan.run)
    resumed = progress.cut_after(step_of(checkpoint)) if is_new else progress.last()
    clock = TrainingClock(plan.budget, plan.tokens_per_step, resumed.seconds)
    in_bf16 = agree(float(facts["autocast"] == "bf16"))[0] > 0
    arguments = arguments_of(plan, clock, in_bf16)
    train_windows = _train_windows(plan, clock, end_id)
    validation_windows = _validation_windows(plan, end_id)
    model = create_model(plan.preset, dataset.vocabulary_size, plan.context_length, end_id)
    if plan.start_from is not None:
        _begin_with(model, plan.start_from, dataset)
    check_room(plan.run, _BYTES_A_PARAMETER * count_parameters(model))
    rates = _rates_of(plan, model, in_bf16)
    _place(model, plan, arguments)
    optimizer = _optimizer(plan, model)
    learning_rate = LambdaLR(
        optimizer,
        lambda step: warmup_stable_decay(clock.progress(step), plan.warmup_share, plan.decay_share),
    )
    interruption = Interruption()
    evaluate, save = Often(plan.evaluations, plan.evaluation_steps), Often(plan.checkpoints, plan.checkpoint_steps)
    callbacks = [BudgetCallback(clock, evaluate, save, interruption, (plan.run / STOP_FILE).exists)]
    if is_first():
        # What an interrupted run wrote after its last checkpoint is purged, so the curves have no doubles.
        writer = SummaryWriter(str(plan.run / TENSORBOARD_DIRECTORY), purge_step=resumed.step + 1)
        callbacks += [ProgressCallback(progress, clock, rates), TensorBoardCallback(writer)]
    trainer = LanguageModelTrainer(
        model=model,
        args=arguments,
        train_dataset=train_windows,
        optimizers=(optimizer, learning_rate),
        callbacks=callbacks,
        validation=validation_windows,
        bytes_of_token=np.array(bytes_of_tokens(tokenizer), dtype=np.int64),
        strategy=plan.strategy,
        clock=clock,
    )
    for noisy in (PrinterCallback, TransformersProgressCallback):
        trainer.remove_callback(noisy)
    if is_first():
        begin_run(plan, facts | {"parameters": count_parameters(model)})
    return TrainingArtifacts(
        plan, dataset, tokenizer, train_windows, validation_windows, model, optimizer, learning_rate, clock, arguments,
        trainer, interruption, checkpoint,
    )  # fmt: skip


def train(artifacts: TrainingArtifacts) -> Path:
    """Train until the budget is spent; returns the directory of the trained model (safetensors, config, tokenizer).

    A run that is already complete is left as it is. Raises Interrupted where SIGTERM or SIGINT came (a checkpoint has
    been written), Diverged where the loss is no number any more, CheckpointFailed where the disk is full.
    """
    plan, trainer, interruption = artifacts.plan, artifacts.trainer, artifacts.interruption
    model_directory = plan.run / MODEL_DIRECTORY
    if is_finished(plan.run):
        return model_directory
    with interruption.watching():
        if plan.strategy.mode in ("baseline", "ddp"):
            for sample in _to_warm_up_with(plan, artifacts.train_windows[0]):
                trainer.warm_up(sample)
        trainer.train(resume_from_checkpoint=str(artifacts.checkpoint) if artifacts.checkpoint else None)
    step = trainer.state.global_step
    tokens_per_second = (step - step_of(artifacts.checkpoint)) * plan.tokens_per_step / artifacts.clock.pure_seconds
    if artifacts.clock.progress(step) < 1.0:
        by = interruption.signal or signal.SIGTERM  # it may have come to another process only
        raise Interrupted(f"stopped by {by.name} after step {step}; the same command goes on from there", by)
    try:
        _save_model(artifacts, tokens_per_second)
    except Exception as error:
        if not is_disk_error(error):
            raise
        raise CheckpointFailed(
            f"the trained model could not be written: {error}; make room and give the same command: nothing is lost"
        ) from error
    return model_directory


def _save_model(artifacts: TrainingArtifacts, tokens_per_second: float) -> None:
    """The trained model appears whole, then the checkpoints go."""
    plan, model = artifacts.plan, artifacts.model
    weights = full_weights(model) if plan.strategy.mode == "fsdp" else artifacts.trainer.all_weights()
    if not is_first():
        return
    staging = plan.run / f".{MODEL_DIRECTORY}"
    shutil.rmtree(staging, ignore_errors=True)
    model.save(staging, weights)
    artifacts.tokenizer.save(str(staging / TOKENIZER_FILE))
    step = artifacts.trainer.state.global_step
    finish_run(
        plan.run,
        {
            "seconds": round(artifacts.clock.seconds, 1),
            "steps": step,
            "tokens": step * plan.tokens_per_step,
            "tokens_per_second": round(tokens_per_second, 1),
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "processes": world_size(),
        },
    )
    staging.replace(plan.run / MODEL_DIRECTORY)
    shutil.rmtree(plan.run / CHECKPOINTS_DIRECTORY, ignore_errors=True)


def _end_id_of(tokenizer: Tokenizer, dataset: DatasetManifest) -> int:
    if tokenizer.get_vocab_size() != dataset.vocabulary_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size():,} tokens and the data set was made with "
            f"{dataset.vocabulary_size:,}: it is not its tokenizer"
        )
    return end_of_text_id(tokenizer)


def _begin_with(model: LanguageModel, directory: Path, dataset: DatasetManifest) -> None:
    """Take the weights of a trained model. Raises ValueError where it has another tokenizer or shape."""
    if sha256_of_file(directory / TOKENIZER_FILE) != dataset.tokenizer_sha256:
        raise ValueError(
            f"{directory} has another tokenizer than the data set: build that with "
            f"`--tokenizer {directory / TOKENIZER_FILE}`"
        )
    missing = model.load_weights(load_file(directory / WEIGHTS_FILE))
    if missing:
        raise ValueError(f"{directory} has another shape than the preset: {missing} does not fit")


def _train_windows(plan: TrainingPlan, clock: TrainingClock, end_id: int) -> PackedWindows:
    windows = clock.max_steps * plan.batch_size * plan.accumulation
    return PackedWindows(load_tokens(plan.data, "train"), plan.mixture, plan.window, windows, plan.seed, end_id)


def _validation_windows(plan: TrainingPlan, end_id: int) -> dict[str, FixedWindows]:
    usable = [part for part in load_tokens(plan.data, "validation") if len(part.tokens) > plan.window]
    if not usable:
        raise ValueError(f"no validation source has a whole window of {plan.window} tokens: add data, or shorten it")
    return {part.source: FixedWindows(part, plan.window, plan.validation_tokens, end_id) for part in usable}


def _place(model: LanguageModel, plan: TrainingPlan, arguments: TrainingArguments) -> None:
    """Compile it where it pays, shard it where the strategy says so."""
    if plan.strategy.fsdp_activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if _is_compiled(plan):
        for layer in model.layers:
            layer.compile()
    if plan.strategy.mode == "fsdp":
        model.to(arguments.device)
        shard(model, model.layers, plan.strategy, in_bf16=arguments.bf16 and torch.cuda.is_available())


def _is_compiled(plan: TrainingPlan) -> bool:
    return plan.compile == "on" or (plan.compile == "auto" and torch.cuda.is_available())


def _to_warm_up_with(plan: TrainingPlan, sample: Sample) -> list[Sample]:
    """For layers that are compiled, a window within a document and one with a border: they are two programs."""
    if not _is_compiled(plan):
        return [sample]
    places = torch.arange(plan.window)
    return [sample | {"position_ids": positions} for positions in (places, places % (plan.window // 2))]


def _rates_of(plan: TrainingPlan, model: LanguageModel, in_bf16: bool) -> Rates:
    """What turns tokens a second into a share of what the machine could do."""
    peak = peak_flops(torch.bfloat16 if in_bf16 else torch.float32) if is_first() else None
    weights = matmul_parameters(model, model.config)
    return Rates(flops_per_token(model.config, weights, plan.window), peak * world_size() if peak else None)


def _optimizer(plan: TrainingPlan, model: LanguageModel) -> torch.optim.Optimizer:
    if plan.optimizer == "adamw":
        return adamw(model, plan.learning_rate, plan.weight_decay)
    return MuonWithAdamW(model, plan.learning_rate, plan.muon_learning_rate, plan.weight_decay)
