"""What a run should do, where, and on which processes: the training plan, a file that is saved with the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lib.budget import Budget
from lib.strategy import Strategy

PLAN_FILE = "plan.json"
_PLACES = frozenset({"data", "run", "strategy", "start_from"})
"""Keys that say where a run is computed rather than what."""


class TrainingPlan(BaseModel):
    """One run's parameters; unknown keys are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    """Directory of the data set."""
    run: Path
    """Directory of the run: its files, checkpoints and the trained model."""
    strategy: Strategy = Strategy()
    """How the processes share the work."""
    experiment: str = Field("experiment", min_length=1, max_length=120)
    """The name under which the run is remembered."""
    preset: Literal["pico", "nano", "mini", "small", "base", "1b"] = "nano"
    """The model's shape, a key of `lib/presets.py: PRESETS`."""
    start_from: Path | None = None
    """Directory of a trained model with which it begins: the same preset, and the data set's tokenizer."""
    seconds: float | None = Field(None, gt=0)
    """Budget in seconds of wall clock ..."""
    tokens: int | None = Field(None, gt=0)
    """... or in trained tokens ..."""
    steps: int | None = Field(None, gt=0)
    """... or in updates: exactly one of the three."""
    time_limit_s: float | None = Field(None, gt=0)
    """It ends then whatever is left of the budget."""
    window: int = Field(512, ge=16)
    """Tokens that a sample has."""
    context: int | None = Field(None, ge=16)
    """Tokens that the model takes; the window where not given."""
    batch_size: int = Field(16, ge=1)
    """Windows in a forward pass, of all processes together: what is learnt does not depend on their number."""
    accumulation: int = Field(1, ge=1)
    """Forward passes in an update."""
    mixture: dict[str, float] | None = None
    """Source → share of the windows; in proportion to their tokens where not given."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon` for the hidden matrices with AdamW for the rest, or AdamW alone."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak of AdamW."""
    muon_learning_rate: float = Field(2e-2, gt=0)
    """Peak of Muon."""
    weight_decay: float = Field(0.1, ge=0)
    warmup_share: float = Field(0.01, ge=0, le=1)
    decay_share: float = Field(0.4, ge=0, le=1)
    """Shares of the budget in which the learning rate rises and falls."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` measures on the processor at hand whether bf16 autocast is faster, and takes it only then."""
    compile: Literal["auto", "on", "off"] = "auto"
    """`torch.compile`; `auto` takes it on a GPU. It is warmed up outside of the budget."""
    evaluations: int = Field(20, ge=1)
    checkpoints: int = Field(10, ge=1)
    """How often to evaluate and save, at equal shares of the budget."""
    evaluation_steps: int | None = Field(None, ge=1)
    checkpoint_steps: int | None = Field(None, ge=1)
    """Where given: after every so many updates instead."""
    validation_tokens: int = Field(65_536, ge=1024)
    """Tokens of each validation source that an evaluation reads."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _ = self.budget  # raises where there is not exactly one
        if self.context_length < self.window:
            raise ValueError(f"a window of {self.window} does not fit into a context of {self.context}")
        return self

    @property
    def budget(self) -> Budget:
        """The budget. Raises ValueError where there is not exactly one."""
        return Budget(self.seconds, self.tokens, self.steps, self.time_limit_s)

    @property
    def recipe(self) -> dict[str, Any]:
        """All that decides what is learnt, as JSON: a run may move, and go on with another number of processes."""
        return self.model_dump(mode="json", exclude=set(_PLACES))

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer that the model takes."""
        return self.context if self.context is not None else self.window

    @property
    def tokens_per_step(self) -> int:
        """Targets in an update."""
        return self.window * self.batch_size * self.accumulation


def load_plan(run: Path) -> TrainingPlan:
    """Read the plan of the run in this directory. Raises FileNotFoundError in words where there is none."""
    path = run / PLAN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run: it has no {PLAN_FILE}")
    return TrainingPlan(**(json.loads(path.read_text(encoding="utf-8")) | {"run": run}))
