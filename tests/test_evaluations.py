"""Questions to models, on both databases: asked once, asked again where they failed, forgotten with their rows."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from ml_service.common.errors import Conflict, NotFound
from ml_service.common.settings import Settings
from ml_service.data.database import Database, now
from ml_service.data.evaluations import EVALUATE, Asked, Evaluations
from ml_service.data.jobs import Claim, Jobs
from ml_service.data.tables import Evaluation, Experiment
from ml_service.pipeline.retention import run_retention
from tests.test_jobs import Clock, an_experiment

REPORT = {"count": 3, "metrics": {"bits_per_byte": {"value": 1.5, "low": 1.0, "high": 2.0, "count": 3}}}


@pytest.fixture
def experiment(database: Database) -> int:
    with database.writing() as session:
        experiment: Experiment = an_experiment()
        session.add(experiment)
        session.flush()
        return experiment.id


def asked(experiment: int, data: str = "d", folder: str = "f1") -> Asked:
    return Asked(experiment, "a" * 64, data * 64, "rows.csv", folder, "tests")


def claimed(database: Database) -> Claim:
    claim = Jobs(database).claim("worker", "judging", (EVALUATE,))
    assert claim is not None
    return claim


def finish(database: Database, claim: Claim, state: str, report: dict[str, Any]) -> None:
    jobs = Jobs(database)

    def write(session: Session) -> None:
        Evaluations(database).finish(session, claim.payload["evaluation_id"], state, report)
        jobs.end(session, claim, state)

    with jobs.fenced(claim) as session:
        write(session)


def test_the_same_question_is_asked_once(database: Database, experiment: int) -> None:
    evaluations = Evaluations(database)
    first, is_new = evaluations.ask(asked(experiment))
    again, is_new_again = evaluations.ask(asked(experiment, folder="f2"))
    assert (is_new, is_new_again) == (True, False)
    assert first.evaluation.id == again.evaluation.id
    assert again.evaluation.folder == "f1"
    other, is_new = evaluations.ask(asked(experiment, "e"))
    assert is_new and other.evaluation.id != first.evaluation.id
    finish(database, claimed(database), "succeeded", REPORT)
    done = evaluations.standing(first.evaluation.id)
    assert (done.state, done.is_over, done.evaluation.metrics) == ("succeeded", True, {"bits_per_byte": 1.5})
    assert evaluations.ask(asked(experiment, folder="f3"))[1] is False
    assert [each.id for each in evaluations.of_experiment(experiment)] == [other.evaluation.id, first.evaluation.id]


def test_a_report_is_kept_whatever_the_rows_said(database: Database, experiment: int) -> None:
    first, _ = Evaluations(database).ask(asked(experiment))
    finish(database, claimed(database), "succeeded", REPORT | {"worst": [{"text": "a\0b \ud800 \U0001f642"}]})
    report = Evaluations(database).standing(first.evaluation.id).evaluation.report
    assert report["worst"] == [{"text": "a\ufffdb ? \U0001f642"}]
    assert report["metrics"] == REPORT["metrics"]


def test_a_question_that_failed_is_asked_again(database: Database, experiment: int) -> None:
    evaluations = Evaluations(database)
    first, _ = evaluations.ask(asked(experiment))
    finish(database, claimed(database), "failed", {"error": {"kind": "BadRequest", "message": "no such column"}})
    failed = evaluations.standing(first.evaluation.id)
    assert (failed.state, failed.error) == ("failed", "no such column")
    again, is_new = evaluations.ask(asked(experiment, folder="f2"))
    assert (is_new, again.evaluation.id, again.state, again.error) == (True, first.evaluation.id, "queued", None)
    assert again.evaluation.folder == "f2"


def test_a_worker_that_is_lost_shows_in_the_evaluation(database: Database, experiment: int) -> None:
    evaluations, clock = Evaluations(database), Clock()
    jobs = Jobs(database, clock=clock)
    standing, _ = evaluations.ask(asked(experiment))
    clock.sleep(60)
    claim = jobs.claim("worker", "judging")
    assert claim is not None
    assert evaluations.standing(standing.evaluation.id).state == "running"
    jobs.heartbeat(claim, {"done": 5, "total": 10})
    assert evaluations.standing(standing.evaluation.id).progress == {"done": 5, "total": 10}
    while jobs.try_again(claim, "killed"):
        clock.sleep(60)
        claim = jobs.claim("worker", "judging")
        assert claim is not None
    lost = evaluations.standing(standing.evaluation.id)
    assert (lost.state, lost.error) == ("failed", "killed")
    assert evaluations.ask(asked(experiment))[1]


def test_who_cancels_gets_a_cancelled_one(database: Database, experiment: int) -> None:
    evaluations = Evaluations(database)
    waiting, _ = evaluations.ask(asked(experiment))
    assert evaluations.cancel(waiting.evaluation.id, "tests") == "cancelled"
    with pytest.raises(Conflict, match="cancelled already"):
        evaluations.cancel(waiting.evaluation.id, "tests")
    with pytest.raises(NotFound, match="no evaluation 99"):
        evaluations.cancel(99, "tests")
    running, _ = evaluations.ask(asked(experiment, "e"))
    claim = claimed(database)
    assert evaluations.cancel(running.evaluation.id, "tests") == "running"
    assert Jobs(database).heartbeat(claim, {}) is True


def test_rows_are_forgotten_and_figures_stay(database: Database, experiment: int) -> None:
    evaluations = Evaluations(database)
    done, _ = evaluations.ask(asked(experiment))
    finish(database, claimed(database), "succeeded", REPORT)
    waiting, _ = evaluations.ask(asked(experiment, "e", "f2"))
    assert evaluations.forget_folders(now() - timedelta(days=1)) == []
    assert evaluations.folders() == {"f1", "f2"}
    assert evaluations.forget_folders(now() + timedelta(seconds=1)) == ["f1"]
    assert evaluations.standing(done.evaluation.id).evaluation.metrics == {"bits_per_byte": 1.5}
    assert evaluations.standing(waiting.evaluation.id).state == "queued"


def test_retention_removes_old_tables_and_what_nobody_knows_of(
    database: Database, experiment: int, tmp_path: Path
) -> None:
    evaluations, folders = Evaluations(database), tmp_path / "store" / "evaluations"
    for name in ("f1", "f2", "unknown", "just made"):
        (folders / name).mkdir(parents=True)
        (folders / name / "rows.csv").write_text("row\n")
    evaluations.ask(asked(experiment))
    finish(database, claimed(database), "succeeded", REPORT)
    evaluations.ask(asked(experiment, "e", "f2"))
    with database.writing() as session:
        session.query(Evaluation).update({"created": now() - timedelta(days=40)})
    long_ago = (now() - timedelta(days=2)).timestamp()
    os.utime(folders / "unknown", (long_ago, long_ago))
    assert run_retention(database, Settings(store=tmp_path / "store")).size_bytes == 8
    assert {path.name for path in folders.iterdir()} == {"f2", "just made"}
