"""What a store can tell of itself in figures, for Prometheus: counts, the running trainings, scores, replicas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ml_service.common.evaluation_options import METRICS
from ml_service.data.database import Database, now
from ml_service.data.datasets import counts_in
from ml_service.data.evaluations import STAGE_EVALUATOR
from ml_service.data.experiments import FINISHED
from ml_service.data.jobs import LEASE_S
from ml_service.data.replicas import fresh
from ml_service.data.tables import (
    JOB_STATES,
    SLOT,
    DatasetVersion,
    Deployment,
    Evaluation,
    Experiment,
    Job,
    Replica,
    ServingSlot,
)
from ml_service.data.version_manifest import total
from ml_service.utils.told import Figures

_TRAINING = "retrain"
_NEW_TEXT = "new"
"""Of the texts that a retraining's own stage judges, the one that tells whether it was worth it."""
_SCORES = frozenset({*METRICS, "loss"})
"""Only names that are ours become labels."""
_EVALUATIONS = 50
"""So many of the latest are looked at for scores."""
Values = dict[str, float]


def store_figures(database: Database) -> Figures:
    """Name → value of its label → figure, all of one state. Every question is answered from an index.

    Raises Unavailable where the database is away.
    """
    with database.reading() as session:
        trainings = session.scalars(select(Job).where(Job.state == "running", Job.kind == _TRAINING)).all()
        slot = session.get(ServingSlot, SLOT)
        active = session.get(Deployment, slot.active_id) if slot is not None and slot.active_id is not None else None
        return {
            "experiments": _counts(session, Experiment, FINISHED),
            "jobs": _counts(session, Job, JOB_STATES),
            "replicas": _replicas(session),
            "dataset_records": _records(session),
            **_of_trainings(trainings, now()),
            **(_of_active(session, active) if active is not None else {}),
        }


def _counts(session: Session, table: type[Experiment | Job], states: tuple[str, ...]) -> Values:
    found = session.execute(select(table.state, func.count().label("how_many")).group_by(table.state))
    counts = {row.state: row.how_many for row in found}
    return {state: counts.get(state, 0) for state in states}


def _replicas(session: Session) -> Values:
    living = Counter(session.scalars(select(Replica.state).where(fresh())))
    return {state: living[state] for state in ("ready", "behind")}


def _records(session: Session) -> Values:
    newest = session.scalar(select(DatasetVersion).order_by(DatasetVersion.number.desc()).limit(1))
    counts = counts_in(newest) if newest is not None else {}
    return {split: total(counts, split).records for split in ("train", "validation")}


def _of_trainings(trainings: Sequence[Job], moment: datetime) -> dict[str, Values]:
    """Each heartbeat gives a lease its full length again, so its end tells when that was."""
    figures: dict[str, Values] = {}
    if ages := [LEASE_S - (job.lease_end - moment).total_seconds() for job in trainings if job.lease_end is not None]:
        figures["training_heartbeat_age_seconds"] = {"": max(0.0, *ages)}
    if rates := [job.progress["tokens_per_second"] for job in trainings if "tokens_per_second" in job.progress]:
        figures["training_tokens_per_second"] = {"": sum(rates)}
    if losses := [job.progress["train_loss"] for job in trainings if "train_loss" in job.progress]:
        figures["training_loss"] = {"": losses[-1]}
    return figures


def _of_active(session: Session, active: Deployment) -> dict[str, Values]:
    figures = {"active_generation": {"": float(active.generation or 0)}, "evaluation_score": _scores(session, active)}
    if active.activated is not None:
        figures["active_since_timestamp_seconds"] = {"": active.activated.timestamp()}
    return figures


def _scores(session: Session, active: Deployment) -> Values:
    """The latest of each metric."""
    wanted = (
        select(Evaluation)
        .where(Evaluation.experiment_id == active.experiment_id)
        .order_by(Evaluation.id.desc())
        .limit(_EVALUATIONS)
    )
    scores: Values = {}
    for evaluation in session.scalars(wanted):
        is_other_text = evaluation.evaluator == STAGE_EVALUATOR and evaluation.data_name != _NEW_TEXT
        if evaluation.state != "succeeded" or is_other_text:
            continue
        for name, value in evaluation.metrics.items():
            if name in _SCORES and isinstance(value, int | float) and math.isfinite(value):
                scores.setdefault(name, float(value))
    return scores
