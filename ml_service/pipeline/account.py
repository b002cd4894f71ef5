"""The account of an experiment: state, progress, curves, scores, lineage; and of several, where they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from lib.nested import flattened
from ml_service.common.errors import BadRequest
from ml_service.data.database import Database
from ml_service.data.evaluations import Evaluations
from ml_service.data.experiments import BUNDLE, SAMPLES, Experiments, deployable
from ml_service.data.jobs import REACHED, Jobs
from ml_service.data.series import Series
from ml_service.data.tables import Artifact, DatasetVersion, Deployment, Experiment, Job, MetricPoint
from ml_service.pipeline.retrain import RETRAIN

_LONGEST_LINEAGE = 100


def account_of(database: Database, store: Path, experiment_id: int, max_points: int = 1000) -> dict[str, Any]:
    """All that is remembered of it; curves are thinned to at most `max_points` a key. Raises NotFound."""
    experiments = Experiments(database, store)
    experiment = experiments.get(experiment_id)
    curves, artifacts = Series(database).thinned(experiment_id, max_points), experiments.artifacts_of(experiment_id)
    return {
        **summaries_of(database, [experiment])[0],
        "plan": experiment.plan,
        "environment": experiment.environment,
        "series": {key: series_of(points) for key, points in curves.items()},
        "lineage": lineage_of(database, store, experiment),
        "artifacts": [
            {
                "role": artifact.role, "sha256": artifact.sha256, "size_bytes": artifact.size_bytes,
                "removed": artifact.removed,
            }
            for artifact in artifacts
        ],
        "samples": _samples(store, artifacts),
        "evaluations": [
            {
                "id": each.id, "data": each.data_name, "metrics": each.metrics, "verdict": each.verdict,
                "at": each.created,
            }
            for each in Evaluations(database).of_experiment(experiment_id)
        ],
    }  # fmt: skip


def _samples(store: Path, artifacts: Iterable[Artifact]) -> str | None:
    """What it wrote, for as long as that is kept."""
    for artifact in artifacts:
        if artifact.role == SAMPLES and (store / artifact.path).is_file():
            return (store / artifact.path).read_text(encoding="utf-8", errors="replace")
    return None


def summaries_of(database: Database, experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """What a list shows of each."""
    ids = [each.id for each in experiments]
    jobs = Jobs(database).of_experiments(ids)
    with database.reading() as session:
        can_answer = deployable(session, ids)
    return [_summary(each, _progress(jobs.get(each.id)), each.id in can_answer) for each in experiments]


def _summary(experiment: Experiment, progress: dict[str, Any], is_deployable: bool) -> dict[str, Any]:
    return {
        "experiment_id": experiment.id, "name": experiment.name, "kind": experiment.kind, "state": experiment.state,
        "phase": experiment.phase, "parent_id": experiment.parent_id, "attempt": experiment.attempt,
        "dataset_version": experiment.plan.get("version"), "corpora": experiment.plan.get("corpora", []),
        "preset": experiment.plan.get("training", {}).get("preset"),
        "error": experiment.error, "pinned": experiment.pinned, "actor": experiment.actor,
        "created": experiment.created, "started": experiment.started, "finished": experiment.finished,
        "deployable": is_deployable, "progress": progress, "metrics": experiment.summary,
    }  # fmt: skip


def _progress(job: Job | None) -> dict[str, Any]:
    """How far it is, and how long it will take."""
    if job is None or job.kind != RETRAIN:
        return {}
    progress = {name: value for name, value in job.progress.items() if name != REACHED}
    if job.cancel_requested and job.finished is None:
        progress["stopping"] = True
    return progress


def lineage_of(database: Database, store: Path, experiment: Experiment) -> dict[str, Any]:
    """Data → parents → commit → bundle → deployments."""
    experiments = Experiments(database, store)
    parents: list[dict[str, Any]] = []
    each = experiment
    while each.parent_id is not None and len(parents) < _LONGEST_LINEAGE:
        each = experiments.get(each.parent_id)
        parents.append({"experiment_id": each.id, "name": each.name, "kind": each.kind})
    bundles = [artifact for artifact in experiments.artifacts_of(experiment.id) if artifact.role == BUNDLE]
    with database.reading() as session:
        version = session.get(DatasetVersion, experiment.dataset_version_id) if experiment.dataset_version_id else None
        wanted = select(Deployment).where(Deployment.experiment_id == experiment.id).order_by(Deployment.id)
        deployments = [
            {
                "generation": each.generation, "state": each.state, "strategy": each.strategy,
                "activated": each.activated, "retired": each.retired, "reason": each.reason,
            }
            for each in session.scalars(wanted)
        ]  # fmt: skip
    data = {"version": version.number, "fingerprint": version.fingerprint} if version is not None else None
    return {
        "dataset": data,
        "corpora": experiment.plan.get("corpora", []),
        "parents": parents,
        "commit": experiment.commit + ("-dirty" if experiment.dirty else ""),
        "bundle_sha256": bundles[0].sha256 if bundles else None,
        "deployments": deployments,
    }


def compare(database: Database, store: Path, experiment_ids: Sequence[int]) -> dict[str, Any]:
    """Where plans differ, all scores, side by side in the order asked for. Raises BadRequest, NotFound."""
    ids = list(dict.fromkeys(experiment_ids))
    if len(ids) < 2:
        raise BadRequest("ids: give at least two experiments to compare, such as ids=3,7", [("ids", "too few")])
    found = [Experiments(database, store).get(each) for each in ids]
    plans = [flattened(each.plan) for each in found]
    scores = [flattened({name: each.summary.get(name, {}) for name in ("scores", "baseline")}) for each in found]
    latest = Series(database).latest(ids)
    return {
        "experiments": summaries_of(database, found),
        "plan": _side_by_side(plans, only_different=True),
        "scores": _side_by_side(scores, only_different=False),
        "latest": _side_by_side([{key: finite(value) for key, value in latest[each].items()} for each in ids], False),
    }


def series_of(points: Iterable[MetricPoint]) -> dict[str, list[float | int | None]]:
    """Columns; a value that is no number is null, as JSON has none."""
    rows = list(points)
    return {
        "step": [point.step for point in rows],
        "tokens": [point.tokens for point in rows],
        "seconds": [finite(point.seconds) for point in rows],
        "value": [finite(point.value) for point in rows],
    }


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _side_by_side(columns: Sequence[Mapping[str, Any]], only_different: bool) -> dict[str, list[Any]]:
    names = sorted({name for column in columns for name in column})
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: row for name, row in rows.items() if not only_different or any(value != row[0] for value in row)}
