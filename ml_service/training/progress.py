"""A run's progress: `progress.jsonl`, which survives a kill without holes or doubles, and the bar that people watch."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lib.files import staged
from lib.training_clock import TrainingClock
from ml_service.utils.logs import EventLogger

log = EventLogger("training")
_TELL_EVERY_S = 10.0
_NAMES = {"loss": "train_loss", "grad_norm": "gradient_norm", "learning_rate": "learning_rate"}


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on."""

    step: int
    seconds: float


@dataclass(frozen=True)
class Rates:
    """What turns tokens a second into the share of the machine's arithmetic that is used (MFU)."""

    flops_per_token: float
    peak_flops: float | None
    """Of all processes together; None where it is not known."""

    def mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilisation, a share."""
        return tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else None


class ProgressLog:
    """One JSON object a line; each has `step`, `tokens` and `seconds`, and some measured values."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, point: dict[str, float | int]) -> None:
        """Add a line; it is complete on disk when this returns, but for a loss of power."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")

    def points(self) -> list[dict[str, Any]]:
        """All lines in order; a last line that a kill cut short is passed over."""
        if not self._path.is_file():
            return []
        points = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                points.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return points

    def last(self) -> Resumed:
        """Where the run stands."""
        points = self.points()
        return Resumed(int(points[-1]["step"]), float(points[-1]["seconds"])) if points else Resumed(0, 0.0)

    def cut_after(self, step: int) -> Resumed:
        """Forget what came after `step`, from which the run goes on."""
        kept = [point for point in self.points() if point["step"] <= step]
        with staged(self._path) as temporary:
            temporary.write_text("".join(json.dumps(point) + "\n" for point in kept), encoding="utf-8")
        return Resumed(step, self.last().seconds)


class ProgressCallback(TrainerCallback):
    """Writes each logged value to the progress log and moves the bar."""

    def __init__(self, log: ProgressLog, clock: TrainingClock, rates: Rates) -> None:
        self._log, self._clock, self._rates = log, clock, rates
        self._bar: tqdm[Any] | None = None
        self._first: tuple[int, float] | None = None
        self._shown: dict[str, str] = {}
        self._told_at = -_TELL_EVERY_S

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first = (state.global_step, self._clock.seconds)
        self._bar = tqdm(
            total=100.0,
            initial=100.0 * self._clock.progress(state.global_step),
            desc="train",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining}{postfix}",
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            dynamic_ncols=True,
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(100.0 * self._clock.progress(state.global_step) - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        values = {name: value for name, value in map(_renamed, (logs or {}).items()) if name}
        if not values:
            return
        assert self._first is not None, "logged before the training began"
        first_step, first_seconds = self._first
        seconds = self._clock.seconds
        trained = (state.global_step - first_step) * self._clock.tokens_per_step
        point: dict[str, float | int] = {
            "step": state.global_step,
            "tokens": state.global_step * self._clock.tokens_per_step,
            "seconds": round(seconds, 3),
            "progress": round(self._clock.progress(state.global_step), 6),
            **values,
        }
        if seconds > first_seconds:
            rate = trained / (seconds - first_seconds)
            point["tokens_per_second"] = round(rate, 1)
            if (mfu := self._rates.mfu(rate)) is not None:
                point["mfu"] = round(mfu, 4)
        self._log.append(point)
        self._show(point)
        self._tell(point)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def _tell(self, point: dict[str, float | int]) -> None:
        """For who has no bar to look at, now and then."""
        if time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._told_at = time.monotonic()
            log.info("training.progress", **point)

    def _show(self, point: dict[str, float | int]) -> None:
        for name, value in point.items():
            if name in ("train_loss", "tokens_per_second") or name.endswith("bits_per_byte"):
                short = name.removeprefix("validation_").replace("_bits_per_byte", " bpb")
                self._shown[short] = f"{value:.0f}" if name == "tokens_per_second" else f"{value:.4f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown | {"step": str(point["step"])}, refresh=False)


def _renamed(item: tuple[str, float]) -> tuple[str | None, float]:
    name, value = item
    if name.startswith("eval_"):
        return f"validation_{name.removeprefix('eval_')}", round(float(value), 6)
    return _NAMES.get(name), round(float(value), 8)
