"""What a run should do: the training plan, a file that is saved with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lib.budget import Budget

PLAN_FILE = "plan.json"


class TrainingPlan(BaseModel):
    """One run's parameters; unknown keys are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str = Field("experiment", min_length=1, max_length=120)
    """The name under which the run is remembered."""
    preset: Literal["nano", "mini", "small", "base", "1b"] = "nano"
    """The model's shape, a key of `lib/modeling.py: PRESETS`."""
    seconds: float | None = Field(None, gt=0)
    """Budget in seconds of wall clock ..."""
    tokens: int | None = Field(None, gt=0)
    """... or in trained tokens ..."""
    steps: int | None = Field(None, gt=0)
    """... or in updates: exactly one of the three."""
    window: int = Field(512, ge=16)
    """Tokens that a sample has; also the context length of the model."""
    batch_size: int = Field(16, ge=1)
    """Windows in a forward pass."""
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
    evaluations: int = Field(20, ge=1)
    checkpoints: int = Field(10, ge=1)
    """How often to evaluate and save, at equal shares of the budget."""
    validation_tokens: int = Field(65_536, ge=1024)
    """Tokens of each validation source that an evaluation reads."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        _ = self.budget
        return self

    @property
    def budget(self) -> Budget:
        """The budget. Raises ValueError where there is not exactly one."""
        return Budget(self.seconds, self.tokens, self.steps)

    @property
    def tokens_per_step(self) -> int:
        """Targets in an update."""
        return self.window * self.batch_size * self.accumulation


def load_plan(run: Path) -> TrainingPlan:
    """Read a run's plan. Raises FileNotFoundError in words where there is none."""
    path = run / PLAN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run: it has no {PLAN_FILE}")
    return TrainingPlan.model_validate_json(path.read_text(encoding="utf-8"))
