"""What is sent and got around deployments, with examples that work when pasted."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ml_service.common.types import DeployStrategy, StorableText

DEFAULT_PERCENT = 10.0


class DeployRequest(BaseModel):
    """How to deploy and why; all of it may be left out."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"reason": "better on the held-out documents"},
                {"strategy": "shadow"},
                {"strategy": "canary", "percent": 10},
            ]
        },
    )

    strategy: DeployStrategy = Field(
        "replace",
        description="`replace` the active model; `shadow`: be asked what that has answered, and compared, and answer "
        "nobody; `canary`: answer `percent` of the requests.",
    )
    percent: float | None = Field(
        None, gt=0, le=100, allow_inf_nan=False, description="Of the requests, for a canary; 10 by default."
    )
    reason: StorableText = Field("", max_length=200, description="Kept in the history.")

    @model_validator(mode="after")
    def _has_a_share_only_as_canary(self) -> Self:
        if self.percent is not None and self.strategy != "canary":
            raise ValueError("percent is for the strategy canary")
        return self

    @property
    def share(self) -> float | None:
        """Of the requests, for a canary."""
        return (self.percent or DEFAULT_PERCENT) if self.strategy == "canary" else None


class RollbackRequest(BaseModel):
    """Why to go back; may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"reason": "too slow"}]})

    reason: StorableText = Field("", max_length=120, description="Kept in the history.")


class DeploymentOut(BaseModel):
    """One line of the history."""

    id: int
    generation: int | None = Field(description="The slot's when it was made; none where it was refused.")
    experiment_id: int
    experiment: str
    artifact_sha256: str = Field(description="What its bundle is known by.")
    state: str = Field(description="active, shadow, canary; retired; failed: refused, or taken back by the watch.")
    strategy: str = Field(description="replace, shadow, canary or rollback.")
    percent: float | None = None
    reason: str
    actor: str
    created: datetime
    activated: datetime | None
    retired: datetime | None
    outcome: dict[str, Any] = Field(description="Figures of the watch; what a rollback `restores`.")
    error: str | None = None


class ReplicaCount(BaseModel):
    """Serving processes."""

    loaded: int = Field(description="That have what the slot says.")
    of: int = Field(description="That live.")


class DeployResponse(DeploymentOut):
    """The deployment, and who has it by now; the others follow within seconds."""

    replicas: ReplicaCount


class ReplicaOut(BaseModel):
    """A serving process."""

    id: str
    host: str
    pid: int
    generation: int
    state: str = Field(description="ready, or behind: it answers with an earlier model.")
    detail: str | None = None
    heartbeat: datetime


class ShadowOut(BaseModel):
    """How far the shadow agrees with the active model, as this process saw it."""

    compared: int
    same: int = Field(description="With the very same answer.")
    same_ratio: float | None
    common_ratio: float | None = Field(description="Mean share of the longer answer with which both begin.")
    active_tokens: int
    shadow_tokens: int
    active_p50_ms: float | None = Field(description="Between two tokens.")
    active_p95_ms: float | None
    shadow_p50_ms: float | None
    shadow_p95_ms: float | None
    failed: int
    skipped: int = Field(description="Named tokens by their number, and the tokenizers differ.")
    dropped: int = Field(description="The shadow was behind.")


class WatchLimits(BaseModel):
    """How long a watch lasts, and what takes a deployment back."""

    seconds: float = Field(description="At least; a canary is watched to its end.")
    longest_s: float = Field(description="Where fewer than `requests` come.")
    requests: int
    error_ratio: float = Field(description="So much more of its requests fail than of the model's before.")
    p95_factor: float = Field(description="So many times as slow between two tokens, under the same load.")


class WatchOut(BaseModel):
    """What is under watch, as this process sees it; a canary is, and for a while what has replaced another."""

    deployment_id: int
    fault: str | None
    figures: dict[str, Any]


class DeploymentsResponse(BaseModel):
    """What answers, and how it came about."""

    generation: int
    active: DeploymentOut | None
    previous: DeploymentOut | None = Field(description="Where `POST /rollback` leads, while its bundle is there.")
    shadow: DeploymentOut | None
    canary: DeploymentOut | None
    agreement: ShadowOut | None
    watched: list[WatchOut]
    limits: WatchLimits
    process: str = Field(description="The replica that answers here: `agreement` and `watched` are what it saw.")
    replicas: list[ReplicaOut]
    history: list[DeploymentOut] = Field(description="The latest first.")
