"""What clients send and get about experiments, with examples that work when pasted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ml_service.pipeline.retrain import RetrainWish


class RetrainRequest(RetrainWish):
    """What to train on what, for how long, and when to deploy it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"experiment_name": "with our notes", "budget": {"seconds": 300}, "deploy_if": {"better_by": 0.0}},
                {"start_from": "scratch", "budget": {"steps": 200}, "hyperparameters": {"preset": "pico"}},
            ]
        }
    )


class RetrainResponse(BaseModel):
    """The experiment that waits to be trained."""

    experiment_id: int
    name: str
    state: str


class ExperimentSummary(BaseModel):
    """An experiment as a list shows it."""

    experiment_id: int
    name: str
    kind: str = Field(description="train, retrain, or import: a bundle that came from outside.")
    state: str = Field(description="queued, running, succeeded, failed or cancelled.")
    phase: str | None = Field(description="While running: extract, train, export or evaluate.")
    parent_id: int | None = Field(description="The experiment whose model it began with.")
    dataset_version: int | None = Field(description="Of the data set, that it learns from.")
    corpora: list[str] = Field(description="Other text that it learns from.")
    preset: str | None = Field(description="The shape of its network, where it was trained here.")
    attempt: int
    error: str | None
    pinned: bool
    actor: str
    created: datetime
    started: datetime | None
    finished: datetime | None
    deployable: bool = Field(description="It has a model that can answer, which retention has not taken.")
    progress: dict[str, Any] = Field(
        description="`share` of the budget, `step`, `tokens`, `tokens_per_second`, `train_loss`, `eta_s`."
    )
    metrics: dict[str, Any] = Field(description="`scores` and those of the model before (`baseline`), verdict, rates.")


class ExperimentList(BaseModel):
    """Experiments that match."""

    experiments: list[ExperimentSummary]
    total: int = Field(description="How many match, whatever `limit` and `offset` are.")


class Curve(BaseModel):
    """A curve; a value that is no number is null."""

    step: list[int]
    tokens: list[int]
    seconds: list[float | None]
    value: list[float | None]


class ArtifactOut(BaseModel):
    """A file that an experiment left; `removed` says when retention took it."""

    role: str
    sha256: str
    size_bytes: int
    removed: datetime | None


class Lineage(BaseModel):
    """Where a model comes from and where it went."""

    dataset: dict[str, Any] | None
    corpora: list[str]
    parents: list[dict[str, Any]]
    commit: str
    bundle_sha256: str | None
    deployments: list[dict[str, Any]]


class ExperimentAccount(ExperimentSummary):
    """All that is remembered of an experiment."""

    plan: dict[str, Any]
    environment: dict[str, Any]
    series: dict[str, Curve]
    lineage: Lineage
    artifacts: list[ArtifactOut]
    evaluations: list[dict[str, Any]]
    samples: str | None = Field(description="What the model wrote at the end of its training, as Markdown.")


class Comparison(BaseModel):
    """Several experiments side by side, each row in their order."""

    experiments: list[ExperimentSummary]
    plan: dict[str, list[Any]] = Field(description="Only what differs.")
    scores: dict[str, list[Any]]
    latest: dict[str, list[float | None]] = Field(description="The last value of each curve.")


class CancelResponse(BaseModel):
    """What comes of it: cancelled at once, or still running until it has saved what it learned."""

    experiment_id: int
    state: str


class PinRequest(BaseModel):
    """Whether retention must leave it alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"pinned": True}]})
    pinned: bool = True
