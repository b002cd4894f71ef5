"""Evaluations: scores of a bundle on data; the same question is answered once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_service.data.database import Database, now
from ml_service.data.tables import Evaluation

EVALUATOR = "rolling-1"
"""The version of what scores: another one gives other figures and asks anew."""


class Evaluations:
    """All scores that were ever taken."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_experiment(self, experiment_id: int) -> list[Evaluation]:
        """Newest first."""
        wanted = select(Evaluation).where(Evaluation.experiment_id == experiment_id).order_by(Evaluation.id.desc())
        with self._database.reading() as session:
            return list(session.scalars(wanted))

    def known(self, artifact_sha256: str, data_sha256: str) -> Evaluation | None:
        """The answer, where the question was asked before."""
        wanted = select(Evaluation).where(
            Evaluation.artifact_sha256 == artifact_sha256,
            Evaluation.data_sha256 == data_sha256,
            Evaluation.evaluator == EVALUATOR,
        )
        with self._database.reading() as session:
            return session.scalar(wanted)

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
    ) -> Evaluation:
        """Keep scores; those of the same question before are replaced."""
        wanted = select(Evaluation).where(
            Evaluation.artifact_sha256 == artifact_sha256,
            Evaluation.data_sha256 == data_sha256,
            Evaluation.evaluator == EVALUATOR,
        )
        evaluation = session.scalar(wanted) or Evaluation(
            artifact_sha256=artifact_sha256, data_sha256=data_sha256, evaluator=EVALUATOR
        )
        evaluation.experiment_id, evaluation.data_name, evaluation.metrics = experiment_id, data_name, metrics
        evaluation.n, evaluation.verdict, evaluation.created = n, verdict, now()
        session.add(evaluation)
        session.flush()
        return evaluation
