"""transformers' Trainer with what it lacks: a budget in seconds, tokens or steps, and scores in bits per byte."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lib.budget import Budget
from lib.packed_windows import FixedWindows
from lib.scores import Score

NEVER_STEPS = 10_000_000


class TrainingClock:
    """How much of the budget is spent, through any number of interruptions."""

    def __init__(self, budget: Budget, tokens_per_step: int, spent_seconds: float = 0.0) -> None:
        self.budget, self.tokens_per_step = budget, tokens_per_step
        self._spent_seconds = spent_seconds
        self._started: float | None = None

    @property
    def max_steps(self) -> int:
        """The last step that the budget can pay for; without bound where the unit is seconds."""
        if self.budget.steps is not None:
            return self.budget.steps
        if self.budget.tokens is not None:
            return math.ceil(self.budget.tokens / self.tokens_per_step)
        return NEVER_STEPS

    def start(self) -> None:
        """Begin to count seconds: call it after all warm-up."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        running = time.monotonic() - self._started if self._started is not None else 0.0
        return self._spent_seconds + running

    def progress(self, step: int) -> float:
        """The share of the budget that is spent after `step` updates, at most 1."""
        if self.budget.seconds is not None:
            return min(self.seconds / self.budget.seconds, 1.0)
        return min(step / self.max_steps, 1.0)


class BudgetCallback(TrainerCallback):
    """Ends the run when the budget is spent; evaluates and saves at equal shares of it, whatever its unit."""

    def __init__(self, clock: TrainingClock, evaluations: int, checkpoints: int) -> None:
        self._clock, self._evaluations, self._checkpoints = clock, evaluations, checkpoints
        self._last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._clock.start()
        self._last = self._clock.progress(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        now = self._clock.progress(state.global_step)
        is_last = now >= 1.0
        if is_last or int(now * self._evaluations) > int(self._last * self._evaluations):
            control.should_evaluate = True
        if is_last or int(now * self._checkpoints) > int(self._last * self._checkpoints):
            control.should_save = True
            control.should_log = True  # the log must know of every step from which a run may resume
        if is_last:
            control.should_training_stop = True
        self._last = now
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # The Trainer acts on the flags of the last step once more when its epoch ends: all is done already.
        control.should_evaluate = control.should_save = control.should_log = False
        return control


class LanguageModelTrainer(Trainer):
    """A Trainer whose samples carry the next tokens as labels and whose evaluation is token-weighted.

    `validation` maps a source to its windows, `bytes_of_token` gives each token's bytes (0 for special ones).
    """

    def __init__(
        self, *, validation: dict[str, FixedWindows], bytes_of_token: npt.NDArray[np.int64], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._validation = validation
        self._bytes_of_token = torch.from_numpy(bytes_of_token)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean nats a token; labels are the next tokens already, so nothing is shifted."""
        logits_BTV = model(input_ids=inputs["input_ids"], use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), inputs["labels"].flatten())
        return (loss, None) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score every validation source; logs `eval_{source}_loss` and `eval_{source}_bits_per_byte`."""
        metrics: dict[str, float] = {}
        for source, windows in self._validation.items():
            score = self.score(windows)
            metrics[f"eval_{source}_loss"] = score.loss
            metrics[f"eval_{source}_bits_per_byte"] = score.bits_per_byte
        self.log(metrics)
        return metrics

    @torch.no_grad()
    def score(self, windows: FixedWindows) -> Score:
        """The likelihood of consecutive windows, each read from its beginning."""
        model, was_training = self.model, self.model.training
        model.eval()
        nats, tokens, size_bytes = 0.0, 0, 0
        batch_size = self.args.per_device_eval_batch_size
        for start in range(0, len(windows), batch_size):
            samples = [windows[i] for i in range(start, min(start + batch_size, len(windows)))]
            input_ids = torch.stack([s["input_ids"] for s in samples]).to(model.device)
            labels = torch.stack([s["labels"] for s in samples])
            with self.compute_loss_context_manager():
                logits_BTV = model(input_ids=input_ids, use_cache=False).logits
            flat = labels.flatten()
            nats += float(
                functional.cross_entropy(logits_BTV.flatten(0, 1).float(), flat.to(model.device), reduction="sum")
            )
            tokens += flat.numel()
            size_bytes += int(self._bytes_of_token[flat].sum())
        model.train(was_training)
        return Score(nats, tokens, size_bytes)
