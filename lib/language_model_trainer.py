"""transformers' Trainer for packed language modelling: bits per byte, an end at what is no number, sharded models."""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import default_collate
from transformers import Trainer

from lib.distributed import rank, summed, world_size
from lib.files import is_disk_error
from lib.interruption import CheckpointFailed, Diverged
from lib.optimizer import parts_of
from lib.packed_windows import FixedWindows, within_documents
from lib.scores import Score
from lib.sharded_checkpoints import load_state, save_state
from lib.strategy import Strategy
from lib.training_clock import TrainingClock


class LanguageModelTrainer(Trainer):
    """A Trainer whose samples carry `next_tokens` and whose evaluation is token-weighted.

    `validation` maps a source to its windows, `bytes_of_token` gives each token's bytes (0 for special ones). The model
    is sharded already where the strategy is FSDP. Raises Diverged before an update that would spoil the weights (on a
    GPU one update late, before anything of it is kept), and CheckpointFailed where the disk does not take one.
    """

    def __init__(
        self,
        *,
        validation: dict[str, FixedWindows],
        bytes_of_token: npt.NDArray[np.int64],
        strategy: Strategy,
        clock: TrainingClock,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._validation, self._strategy, self._clock = validation, strategy, clock
        self._own_optimizer, self._own_schedule = kwargs["optimizers"]
        self._bytes_of_token = torch.from_numpy(bytes_of_token)
        self._loss_of_step: torch.Tensor | float = 0.0
        self._unread: _Unread | None = None
        # Not to be wrapped in DDP: `fully_shard` owns placement and gradients.
        self.is_distributed_loading_by_transformers = strategy.mode == "fsdp"

    def create_optimizer(self, model: Any = None) -> Any:
        """The one that was given: for DeepSpeed the Trainer forgets it and asks again."""
        self.optimizer = self._own_optimizer
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The same for the learning rate."""
        self.lr_scheduler = self._own_schedule
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean nats a token."""
        loss = model(**_for_the_device(inputs))
        return (loss, None) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._loss_of_step = self._loss_of_step + loss
        return loss

    def warm_up(self, sample: dict[str, torch.Tensor]) -> None:
        """One pass forward and backward whose gradients are forgotten: what is slow only once happens here.

        On a GPU one for an evaluation too, which is another program.
        """
        batch = default_collate([sample] * self.args.per_device_train_batch_size)
        inputs = {name: values.to(self.args.device) for name, values in batch.items()}
        with self.accelerator.autocast():  # which wraps the model only when the training begins
            loss = self.compute_loss(self.model, inputs)
        loss.backward()
        if self.args.device.type == "cuda":
            self.model.eval()
            with self.accelerator.autocast(), torch.no_grad():
                self.compute_loss(self.model, inputs)
            self.model.train()
        self.model.zero_grad()

    def all_weights(self) -> dict[str, torch.Tensor]:
        """The trained parameters by name, whole on the first rank; every rank calls it. Not for FSDP."""
        weights: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return weights

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Raises Diverged; on a GPU for the step before, because to read a value waits for all that it has to do."""
        norm = super()._clip_grad_norm(model)
        self._read()
        step, loss = self.state.global_step + 1, self._loss_of_step
        self._loss_of_step = 0.0
        if type(norm) is torch.Tensor and norm.is_cuda:
            self._unread = _Unread.of(step, loss, norm)
        else:
            _check(step, float(loss), float(norm) if norm is not None else 0.0)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is told or kept of a step that has not been looked at. Raises Diverged."""
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._read()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _read(self) -> None:
        unread, self._unread = self._unread, None
        if unread is not None:
            unread.has_come.synchronize()
            _check(unread.step, *unread.loss_and_norm.tolist())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score every validation source; logs `eval_{source}_loss` and `eval_{source}_bits_per_byte`."""
        metrics: dict[str, float] = {}
        with self._clock.aside():
            for source, windows in self._validation.items():
                score = self.score(windows)
                metrics[f"eval_{source}_loss"] = score.loss
                metrics[f"eval_{source}_bits_per_byte"] = score.bits_per_byte
        self.log(metrics)
        return metrics

    @torch.no_grad()
    def score(self, windows: FixedWindows) -> Score:
        """The likelihood of consecutive windows, each read from its beginning; the ranks share the work."""
        model, was_training = self.model_wrapped, self.model.training
        model.eval()
        nats, tokens, size_bytes = 0.0, 0, 0
        width = self.args.per_device_eval_batch_size
        batches = math.ceil(len(windows) / width)
        for turn in range(math.ceil(batches / world_size())):
            number = turn * world_size() + rank()
            counts = number < batches  # who has none left computes along: sharded layers need every rank
            start = (number if counts else 0) * width
            batch = default_collate([windows[i] for i in range(start, min(start + width, len(windows)))])
            inputs = {name: values.to(self.args.device) for name, values in batch.items()}
            with self.compute_loss_context_manager():
                total = float(model(**_for_the_device(inputs), reduction="sum"))
            if counts:
                nats += total
                tokens += batch["next_tokens"].numel()
                size_bytes += int(self._bytes_of_token[batch["next_tokens"]].sum())
        model.train(was_training)
        nats, all_tokens, all_bytes = summed(nats, tokens, size_bytes)
        return Score(nats, int(all_tokens), int(all_bytes))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        try:
            with self._clock.aside():
                super()._save_checkpoint(model, trial)
        except Exception as error:  # safetensors, torch and the file system raise each their own
            if not is_disk_error(error):
                raise
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
            raise CheckpointFailed(
                f"the checkpoint of step {self.state.global_step} could not be written: {error}; make room and give "
                f"the same command: it goes on from the checkpoint before"
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self._strategy.mode != "fsdp":  # there the state holds the weights
            super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._strategy.mode != "fsdp":
            super()._save_optimizer_and_scheduler(output_dir)
            return
        full = self._strategy.fsdp_state_dict == "full"
        save_state(Path(output_dir), self.model, parts_of(self.optimizer), full=full)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._strategy.mode != "fsdp":  # there it is read together with the optimizer
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._strategy.mode != "fsdp" or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_state(Path(checkpoint), self.model, parts_of(self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))


@dataclass(frozen=True)
class _Unread:
    """Loss and norm of a step, on their way from a GPU."""

    step: int
    loss_and_norm: torch.Tensor
    has_come: torch.cuda.Event

    @classmethod
    def of(cls, step: int, loss: torch.Tensor | float, norm: torch.Tensor) -> _Unread:
        """Sent off, not waited for."""
        sent = torch.stack([torch.as_tensor(loss, device=norm.device), norm]).to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return cls(step, sent, event)


def _check(step: int, loss: float, norm: float) -> None:
    for what, value in (("the loss", loss), ("the gradient", norm)):
        if not math.isfinite(value):
            raise Diverged(
                f"{what} is {value} at step {step}: nothing was learnt from it; lower the learning rate or begin anew "
                f"from the last checkpoint with another plan"
            )


def _for_the_device(inputs: dict[str, Any]) -> dict[str, Any]:
    """On a GPU with the mask: transformers would look first whether there is a border, and wait for all before it."""
    positions = inputs["position_ids"]
    return inputs | {"attention_mask": within_documents(positions)} if positions.is_cuda else inputs
