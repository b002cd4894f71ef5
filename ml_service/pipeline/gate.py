"""The gate: whether a new model may answer, from its scores and those of the model before; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

NEW = "new"
"""The source that a retraining adds; all the others are what the model knew before."""
Metric = Literal["bits_per_byte", "byte_perplexity", "loss"]
Scores = Mapping[str, Mapping[str, float]]
"""Source → metric → value; lower is better for all of them."""


class DeployIf(BaseModel):
    """When a retrained model is deployed by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric = Field("bits_per_byte", description="Of the held-out text; lower is better.")
    better_by: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="On the new text it must be lower by more than this."
    )
    old_worse_by: float = Field(
        0.02, ge=0, allow_inf_nan=False, description="On each old text it may be higher by this share of itself."
    )


@dataclass(frozen=True)
class Verdict:
    """What was decided, and why, in a sentence."""

    passed: bool
    reason: str


def judge(wanted: DeployIf, scores: Scores, baseline: Scores) -> Verdict:
    """Compare the new model with the one before on the same held-out texts."""
    new, before = scores.get(NEW), baseline.get(NEW)
    if new is None or before is None:
        return Verdict(False, "none of the new text was held out, so there is nothing to judge it by: add more")
    metric = wanted.metric
    gained = before[metric] - new[metric]
    if not gained > wanted.better_by:
        return Verdict(
            False,
            f"{metric} on the new text went from {before[metric]:.4f} to {new[metric]:.4f}: that is not better by more "
            f"than {wanted.better_by:g}",
        )
    for source in sorted(set(scores) - {NEW}):
        limit = baseline[source][metric] * (1 + wanted.old_worse_by)
        if not scores[source][metric] <= limit:
            return Verdict(
                False,
                f"{metric} on {source} went from {baseline[source][metric]:.4f} to {scores[source][metric]:.4f}: more "
                f"than {wanted.old_worse_by:.1%} was forgotten",
            )
    return Verdict(True, f"{metric} on the new text went from {before[metric]:.4f} to {new[metric]:.4f}")
