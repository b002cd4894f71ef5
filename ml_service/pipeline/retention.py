"""Retention, as a job: what no deployment needs and nobody pinned goes after a while; rows stay, data stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from lib.files import remove_tree
from ml_service.common.settings import Settings
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.experiments import BUNDLE, FINISHED, Experiments
from ml_service.data.tables import SLOT, Artifact, Deployment, Experiment, LoggedRequest, ServingSlot
from ml_service.pipeline import layout
from ml_service.pipeline.evaluating import forget_evaluations
from ml_service.training.run_files import CHECKPOINTS_DIRECTORY, MODEL_DIRECTORY

RETENTION = "retention"
KEPT_DEPLOYMENTS = 4
"""The active one and the three before it can be gone back to."""
_SCRATCH_DAYS = 1.0
"""How long a finished experiment's tokens and checkpoints stay: they can be made again."""
_ACTOR = "retention"


@dataclass(frozen=True)
class Cleaned:
    """What went."""

    experiments: int
    size_bytes: int
    requests: int


def run_retention(database: Database, settings: Settings, beat: Callable[[], None] = lambda: None) -> Cleaned:
    """Remove what has had its time; `beat` is called between two experiments."""
    experiments = Experiments(database, settings.store)
    freed = count = 0
    for experiment in experiments.find(FINISHED, sort="id", newest_first=False, limit=1_000_000):
        beat()
        assert experiment.finished is not None, "a finished experiment has the moment"
        age, directory = now() - experiment.finished, experiments.directory(experiment.id)
        if age > timedelta(days=_SCRATCH_DAYS):
            freed += sum(
                remove_tree(directory / name)
                for name in (layout.DATA, layout.START, f"{layout.RUN}/{CHECKPOINTS_DIRECTORY}")
            )
        if age > timedelta(days=settings.retention_days) and not experiment.pinned:
            removed = _forget_files(database, experiments, experiment.id)
            freed, count = freed + removed, count + (removed > 0)
    freed += forget_evaluations(database, settings)
    return Cleaned(count, freed, _forget_requests(database))


def kept_experiments(session: Session) -> set[int]:
    """Those whose bundle somebody may need: live, lately live, or the beginning of a training."""
    lately = select(Deployment.experiment_id).where(Deployment.activated.is_not(None))
    kept: list[int] = []
    for experiment_id in session.scalars(lately.order_by(Deployment.id.desc()).limit(1000)):
        if experiment_id not in kept and len(kept) < KEPT_DEPLOYMENTS:
            kept.append(experiment_id)
    return set(kept) | _named_by_slots(session) | _parents_in_use(session)


def _named_by_slots(session: Session) -> set[int]:
    named: set[int | None] = set()
    for slot in session.scalars(select(ServingSlot)):
        named |= {slot.active_id, slot.previous_id, slot.shadow_id, slot.canary_id}
    wanted = select(Deployment.experiment_id).where(Deployment.id.in_(named - {None}))
    return set(session.scalars(wanted))


def _parents_in_use(session: Session) -> set[int]:
    unfinished = select(Experiment.parent_id).where(Experiment.state.not_in(FINISHED))
    return {parent for parent in session.scalars(unfinished) if parent is not None}


def _forget_files(database: Database, experiments: Experiments, experiment_id: int) -> int:
    """The rows say so first: a file that is still there harms nobody, a row without its file does."""
    directory = experiments.directory(experiment_id)
    with database.writing() as session:
        session.get(ServingSlot, SLOT, with_for_update=True)  # nobody deploys meanwhile what is to go
        if experiment_id in kept_experiments(session):
            return 0
        wanted = select(Artifact).where(Artifact.experiment_id == experiment_id, Artifact.removed.is_(None))
        gone = [artifact for artifact in session.scalars(wanted) if artifact.role in (BUNDLE, "model")]
        if not gone or not directory.is_dir():
            return 0
        for artifact in gone:
            artifact.removed = now()
        roles = {"roles": [artifact.role for artifact in gone]}
        audit.record(database, session, _ACTOR, "remove files", f"experiment {experiment_id}", roles)
    return sum(remove_tree(directory / name) for name in (layout.BUNDLE, f"{layout.RUN}/{MODEL_DIRECTORY}"))


def _forget_requests(database: Database) -> int:
    with database.writing() as session:
        result = session.execute(delete(LoggedRequest).where(LoggedRequest.expires < now()))
        assert isinstance(result, CursorResult), "a deletion tells how many rows it met"
        return result.rowcount
