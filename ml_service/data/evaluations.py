"""Evaluations: scores of a bundle on data; the same question is answered once, what takes its time is a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_service.common.errors import Conflict, NotFound
from ml_service.common.types import storable_json
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.jobs import Jobs
from ml_service.data.tables import Evaluation, Job

EVALUATE = "evaluate"
STAGE_EVALUATOR, FILE_EVALUATOR = "rolling-2", "file-1"
"""The versions of what scores: another one gives other figures and asks anew."""
_OPEN = ("queued", "running")


@dataclass(frozen=True)
class Asked:
    """A question: which artifact, on what."""

    experiment_id: int
    artifact_sha256: str
    data_sha256: str
    """Of the data and of all that was said about it."""
    data_name: str
    folder: str
    """Below the store's evaluations: the question and the data."""
    actor: str


@dataclass(frozen=True)
class Standing:
    """An evaluation, and how it stands with it now."""

    evaluation: Evaluation
    state: str
    progress: dict[str, Any]
    error: str | None

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in _OPEN


class Evaluations:
    """All scores that were ever taken."""

    def __init__(self, database: Database) -> None:
        self._database, self._jobs = database, Jobs(database)

    def of_experiment(self, experiment_id: int) -> list[Evaluation]:
        """Newest first."""
        wanted = select(Evaluation).where(Evaluation.experiment_id == experiment_id).order_by(Evaluation.id.desc())
        with self._database.reading() as session:
            return list(session.scalars(wanted))

    def latest(self, experiment_id: int | None, limit: int) -> list[Standing]:
        """Newest first, of one experiment or of all."""
        wanted = select(Evaluation).order_by(Evaluation.id.desc()).limit(limit)
        if experiment_id is not None:
            wanted = wanted.where(Evaluation.experiment_id == experiment_id)
        with self._database.reading() as session:
            return [_standing(session, each) for each in session.scalars(wanted)]

    def standing(self, evaluation_id: int) -> Standing:
        """Raises NotFound."""
        with self._database.reading() as session:
            return _standing(session, _found(session, evaluation_id))

    def ask(self, asked: Asked) -> tuple[Standing, bool]:
        """Put a question; whether it is a new one. One that failed, or was cancelled, is put again."""
        with self._database.writing() as session:
            self._database.lock_for_this_transaction(session, EVALUATE)
            evaluation = _known(session, asked.artifact_sha256, asked.data_sha256, FILE_EVALUATOR)
            if evaluation is not None:
                standing = _standing(session, evaluation)
                if standing.state in (*_OPEN, "succeeded"):
                    return standing, False
            evaluation = evaluation or Evaluation(
                artifact_sha256=asked.artifact_sha256, data_sha256=asked.data_sha256, evaluator=FILE_EVALUATOR
            )
            evaluation.experiment_id, evaluation.data_name, evaluation.folder = (
                asked.experiment_id, asked.data_name, asked.folder,
            )  # fmt: skip
            evaluation.actor, evaluation.created, evaluation.finished = asked.actor, now(), None
            evaluation.state, evaluation.metrics, evaluation.report, evaluation.n = "queued", {}, {}, 0
            session.add(evaluation)
            session.flush()
            evaluation.job_id = self._jobs.queue(session, EVALUATE, payload={"evaluation_id": evaluation.id})
            session.flush()
            told = {"experiment": asked.experiment_id, "data": asked.data_name, "data_sha256": asked.data_sha256}
            audit.record(self._database, session, asked.actor, "evaluate", f"evaluation {evaluation.id}", {}, told)
            return _standing(session, evaluation), True

    def finish(self, session: Session, evaluation_id: int, state: str, report: dict[str, Any]) -> None:
        """It is over; in the transaction that ends its job."""
        evaluation = session.get_one(Evaluation, evaluation_id)
        # Its worst rows are text from a file, which may be anything.
        evaluation.state, evaluation.report, evaluation.finished = state, storable_json(report), now()
        figures = report.get("metrics", {})
        evaluation.metrics = {name: figure["value"] for name, figure in figures.items()}
        evaluation.n = report.get("count", 0)

    def cancel(self, evaluation_id: int, actor: str) -> str:
        """Stop it; the state that follows. Raises NotFound, Conflict where it is over."""
        with self._database.writing() as session:
            standing = _standing(session, _found(session, evaluation_id))
            if standing.is_over or standing.evaluation.job_id is None:
                raise Conflict(f"evaluation {evaluation_id} is {standing.state} already: there is nothing to cancel")
            state = self._jobs.cancel_job(session, standing.evaluation.job_id)
            target = f"evaluation {evaluation_id}"
            audit.record(self._database, session, actor, "cancel", target, {"state": standing.state}, {"state": state})
            return state

    def forget_folders(self, before: datetime) -> list[str]:
        """The folders of those that were over by then: their rows are no longer kept, their figures are."""
        over = select(Evaluation).where(Evaluation.folder.is_not(None), Evaluation.created < before)
        with self._database.writing() as session:
            gone = [each for each in session.scalars(over) if _standing(session, each).is_over]
            folders = [each.folder for each in gone if each.folder is not None]
            for each in gone:
                each.folder = None
            return folders

    def folders(self) -> set[str]:
        """Those that somebody may need."""
        with self._database.reading() as session:
            named = session.scalars(select(Evaluation.folder).where(Evaluation.folder.is_not(None)))
            return {folder for folder in named if folder is not None}

    def remember(
        self,
        session: Session,
        experiment_id: int | None,
        artifact_sha256: str,
        data_sha256: str,
        data_name: str,
        metrics: dict[str, Any],
        n: int,
        verdict: str | None = None,
    ) -> None:
        """Keep scores that a stage has taken; those of the same question before are replaced."""
        evaluation = _known(session, artifact_sha256, data_sha256, STAGE_EVALUATOR) or Evaluation(
            artifact_sha256=artifact_sha256, data_sha256=data_sha256, evaluator=STAGE_EVALUATOR
        )
        evaluation.experiment_id, evaluation.data_name, evaluation.metrics = experiment_id, data_name, metrics
        evaluation.n, evaluation.verdict, evaluation.created = n, verdict, now()
        evaluation.state, evaluation.report, evaluation.actor, evaluation.finished = "succeeded", {}, "worker", now()
        session.add(evaluation)
        session.flush()


def _known(session: Session, artifact_sha256: str, data_sha256: str, evaluator: str) -> Evaluation | None:
    return session.scalar(
        select(Evaluation).where(
            Evaluation.artifact_sha256 == artifact_sha256,
            Evaluation.data_sha256 == data_sha256,
            Evaluation.evaluator == evaluator,
        )
    )


def _found(session: Session, evaluation_id: int) -> Evaluation:
    evaluation = session.get(Evaluation, evaluation_id)
    if evaluation is None:
        raise NotFound(f"there is no evaluation {evaluation_id}")
    return evaluation


def _standing(session: Session, evaluation: Evaluation) -> Standing:
    """While it is not over, its job knows: a worker may have been lost, or have given up."""
    is_open = evaluation.state in _OPEN and evaluation.job_id is not None
    job = session.get(Job, evaluation.job_id) if is_open else None
    if job is None:
        return Standing(evaluation, evaluation.state, {}, evaluation.report.get("error", {}).get("message"))
    return Standing(evaluation, job.state, job.progress, job.error)
