"""How much of a training budget is spent, and what follows from it: when to evaluate, to save, to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lib.budget import Budget
from lib.distributed import agree
from lib.interruption import Interruption

NEVER_STEPS = 10_000_000


class TrainingClock:
    """How much of the budget is spent, through any number of interruptions; the same on all ranks."""

    def __init__(self, budget: Budget, tokens_per_step: int, spent_seconds: float = 0.0) -> None:
        self.budget, self.tokens_per_step = budget, tokens_per_step
        self._spent_seconds = spent_seconds
        self._started: float | None = None
        self._stopped: float | None = None
        self._aside_seconds = 0.0
        self._is_given_up = False
        self._agreed_share = self._own_share

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

    def end_now(self) -> None:
        """Whatever is left of the budget is given up; all ranks know with the next `tick`."""
        self._is_given_up = True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work that is paid from the budget and is no training: evaluations, checkpoints."""
        started = time.monotonic()
        yield
        self._aside_seconds += time.monotonic() - started

    def stop(self) -> None:
        """The training is over."""
        self._stopped = time.monotonic()

    @property
    def pure_seconds(self) -> float:
        """Seconds of training from `start` to `stop`, without what was done aside."""
        assert self._started is not None and self._stopped is not None, "the training has not begun or not ended"
        return self._stopped - self._started - self._aside_seconds

    def tick(self, *, wants_to_stop: bool = False) -> bool:
        """Read the clock once a step. The first rank's time counts for all; returns whether any rank wants to stop."""
        self._agreed_share, stops = agree(self._own_share, any_wants_to_stop=wants_to_stop)
        return stops

    def progress(self, step: int) -> float:
        """The share of the budget that is spent after `step` updates, at most 1; seconds as of the last `tick`."""
        return min(max(self._agreed_share, step / self.max_steps), 1.0)

    @property
    def _own_share(self) -> float:
        if self._is_given_up:
            return 1.0
        limit = self.budget.clock_seconds
        return self.seconds / limit if limit is not None else 0.0


@dataclass(frozen=True)
class Often:
    """How often something is done: so many times in a budget, or after every so many updates."""

    times: int
    every_steps: int | None = None

    def is_due(self, last: float, now: float, step: int) -> bool:
        """Whether to do it after this update, at the share `now` of the budget; the one before ended at `last`."""
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return int(now * self.times) > int(last * self.times)


class BudgetCallback(TrainerCallback):
    """Ends the run when the budget is spent; evaluates and saves at equal shares of it, whatever its unit.

    Where a number of steps is given instead, after each so many. An interruption saves too, and stops.
    """

    def __init__(
        self,
        clock: TrainingClock,
        evaluate: Often,
        save: Often,
        interruption: Interruption,
        ends_early: Callable[[], bool],
    ) -> None:
        """`ends_early` is asked after every update: whether to end as if the budget were spent."""
        self._clock, self._evaluate, self._save, self._interruption = clock, evaluate, save, interruption
        self._ends_early = ends_early
        self._last = 0.0
        self._stops = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._clock.start()
        self._last = self._clock.progress(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._clock.stop()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._ends_early():
            self._clock.end_now()
        # Before the learning rate of the next step is set, which must be the same on all ranks.
        self._stops = self._clock.tick(wants_to_stop=self._interruption.is_asked)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        now = self._clock.progress(state.global_step)
        is_last = now >= 1.0
        if is_last or self._evaluate.is_due(self._last, now, state.global_step):
            control.should_evaluate = True
        if is_last or self._stops or self._save.is_due(self._last, now, state.global_step):
            control.should_save = True
            control.should_log = True  # the log must know of every step from which a run may resume
        if is_last or self._stops:
            control.should_training_stop = True
        self._last = now
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # The Trainer acts on the flags of the last step once more when its epoch ends: all is done already.
        control.should_evaluate = control.should_save = control.should_log = False
        return control
