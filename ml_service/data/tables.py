"""The tables: what is remembered, on SQLite and PostgreSQL alike; what must hold is said to the database."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ml_service.data.columns import Table, among, unique_where

SLOT = "default"
BATCH_STATES = ("received", "validating", "accepted", "rejected")
JOB_STATES = EXPERIMENT_STATES = ("queued", "running", "succeeded", "failed", "cancelled")
DEPLOYMENT_STATES = ("pending", "shadow", "canary", "active", "retired", "failed")


class DataBatch(Table):
    """One upload."""

    __tablename__ = "data_batches"
    _kept = unique_where("uq_data_batches_sha256_kept", "sha256", "state <> 'rejected'")
    __table_args__ = (among("state", BATCH_STATES), _kept)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    licence: Mapped[str] = mapped_column(String(120))
    tags: Mapped[list[str]]
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    report: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(120))
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    created: Mapped[datetime]
    finished: Mapped[datetime | None]


class Record(Table):
    """A document, known by its content: there is never a second one of it."""

    __tablename__ = "records"
    __table_args__ = (among("split", ("train", "validation")),)
    id: Mapped[int] = mapped_column(primary_key=True)
    content_hash: Mapped[str] = mapped_column(String(64), unique=True)
    batch_id: Mapped[int] = mapped_column(ForeignKey("data_batches.id"), index=True)
    size_bytes: Mapped[int]
    split: Mapped[str] = mapped_column(String(10))
    shard: Mapped[str] = mapped_column(String(120))
    row: Mapped[int]


class DatasetVersion(Table):
    """Everything that was accepted up to a batch; never changed."""

    __tablename__ = "dataset_versions"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"))
    batch_id: Mapped[int] = mapped_column(ForeignKey("data_batches.id"))
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    manifest_path: Mapped[str] = mapped_column(String(255))
    counts: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class Experiment(Table):
    """What is remembered of a run."""

    __tablename__ = "experiments"
    __table_args__ = (among("state", EXPERIMENT_STATES), among("kind", ("train", "retrain", "import")))
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    phase: Mapped[str | None] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("experiments.id"))
    dataset_version_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_versions.id"))
    plan: Mapped[dict[str, Any]]
    seed: Mapped[int]
    commit: Mapped[str] = mapped_column(String(80))
    dirty: Mapped[bool]
    environment: Mapped[dict[str, Any]]
    attempt: Mapped[int]
    summary: Mapped[dict[str, Any]]
    error: Mapped[str | None] = mapped_column(Text)
    pinned: Mapped[bool]
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    request_sha256: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(120))
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]


class MetricPoint(Table):
    """A value at a step; the same step again replaces it, so that a resumed run leaves no doubles."""

    __tablename__ = "metric_points"
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float] = mapped_column(nullable=True)
    tokens: Mapped[int]
    seconds: Mapped[float] = mapped_column(nullable=True)


class MetricLatest(Table):
    """The latest value of each key: lists never read the points."""

    __tablename__ = "metric_latest"
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(120), primary_key=True)
    step: Mapped[int]
    value: Mapped[float] = mapped_column(nullable=True)


class Artifact(Table):
    """A file or bundle that an experiment left; the row is written last."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("experiment_id", "role"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"))
    role: Mapped[str] = mapped_column(String(32))
    path: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int]
    removed: Mapped[datetime | None]


class Evaluation(Table):
    """Scores of an artifact on data; the same question is answered once."""

    __tablename__ = "evaluations"
    __table_args__ = (among("state", JOB_STATES), UniqueConstraint("artifact_sha256", "data_sha256", "evaluator"))
    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int | None] = mapped_column(ForeignKey("experiments.id"), index=True)
    artifact_sha256: Mapped[str] = mapped_column(String(64))
    data_sha256: Mapped[str] = mapped_column(String(64))
    data_name: Mapped[str] = mapped_column(String(120))
    evaluator: Mapped[str] = mapped_column(String(32))
    metrics: Mapped[dict[str, Any]]
    n: Mapped[int]
    verdict: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16))
    folder: Mapped[str | None] = mapped_column(String(64))
    report: Mapped[dict[str, Any]]
    actor: Mapped[str] = mapped_column(String(120))
    job_id: Mapped[int | None]
    finished: Mapped[datetime | None]


class Deployment(Table):
    """Which bundle answers in a slot, from when to when; rows are added and never given to another."""

    __tablename__ = "deployments"
    __table_args__ = (
        among("state", DEPLOYMENT_STATES),
        UniqueConstraint("slot", "generation"),
        unique_where("uq_deployments_slot_active", "slot", "state = 'active'"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    slot: Mapped[str] = mapped_column(String(32))
    generation: Mapped[int | None]
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"))
    artifact_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    strategy: Mapped[str] = mapped_column(String(16))
    percent: Mapped[float | None] = mapped_column(nullable=True)
    reason: Mapped[str] = mapped_column(String(255))
    actor: Mapped[str] = mapped_column(String(120))
    evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"))
    outcome: Mapped[dict[str, Any]]
    error: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    created: Mapped[datetime]
    activated: Mapped[datetime | None]
    retired: Mapped[datetime | None]


class ServingSlot(Table):
    """What should answer now: the row that every deployment locks."""

    __tablename__ = "serving_slots"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    generation: Mapped[int]
    active_id: Mapped[int | None] = mapped_column(ForeignKey("deployments.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("deployments.id"))
    shadow_id: Mapped[int | None] = mapped_column(ForeignKey("deployments.id"))
    canary_id: Mapped[int | None] = mapped_column(ForeignKey("deployments.id"))


class Job(Table):
    """A queued wish and its state."""

    __tablename__ = "jobs"
    __table_args__ = (
        among("state", JOB_STATES),
        unique_where("uq_jobs_lock_key_running", "lock_key", "state = 'running'"),
        unique_where("uq_jobs_dedup_key_queued", "dedup_key", "state = 'queued'"),
        Index("ix_jobs_state_priority", "state", "priority", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    experiment_id: Mapped[int | None] = mapped_column(ForeignKey("experiments.id"), index=True)
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    payload: Mapped[dict[str, Any]]
    lock_key: Mapped[str | None] = mapped_column(String(64))
    dedup_key: Mapped[str | None] = mapped_column(String(64))
    attempt: Mapped[int]
    max_attempts: Mapped[int]
    not_before: Mapped[datetime]
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_token: Mapped[int]
    lease_end: Mapped[datetime | None]
    cancel_requested: Mapped[bool]
    progress: Mapped[dict[str, Any]]
    error: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime]
    finished: Mapped[datetime | None]


class Replica(Table):
    """A serving process and what it has loaded."""

    __tablename__ = "replicas"
    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    host: Mapped[str] = mapped_column(String(120))
    pid: Mapped[int]
    generation: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str | None] = mapped_column(Text)
    heartbeat: Mapped[datetime]


class LoggedRequest(Table):
    """A sampled request; its text only where that is switched on."""

    __tablename__ = "request_log"
    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    route: Mapped[str] = mapped_column(String(64))
    experiment_id: Mapped[int | None]
    generation: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    finish_reason: Mapped[str] = mapped_column(String(16))
    timings: Mapped[dict[str, Any]]
    prompt: Mapped[str | None] = mapped_column(Text)
    answer: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime]
    expires: Mapped[datetime] = mapped_column(index=True)


class Feedback(Table):
    """What somebody thought of an answer, and what it should have been."""

    __tablename__ = "feedback"
    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128), index=True)
    accepted: Mapped[bool]
    prompt: Mapped[str | None] = mapped_column(Text)
    correction: Mapped[str | None] = mapped_column(Text)
    batch_id: Mapped[int | None] = mapped_column(ForeignKey("data_batches.id"), index=True)
    actor: Mapped[str] = mapped_column(String(120))
    created: Mapped[datetime]


class AuditEvent(Table):
    """Who did what; each event carries the hash of the one before, and a trigger refuses change."""

    __tablename__ = "audit_events"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(120))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(120))
    before: Mapped[dict[str, Any]]
    after: Mapped[dict[str, Any]]
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64), unique=True)


class ApiKey(Table):
    """A key of which only the hash is kept."""

    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    revoked: Mapped[datetime | None]
    rate: Mapped[str | None] = mapped_column(String(32))
