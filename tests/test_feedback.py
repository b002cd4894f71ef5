"""Feedback becomes data, once; the request log forgets in time; retention removes only what nobody needs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ml_service.common.errors import BadRequest, Conflict
from ml_service.common.settings import Settings
from ml_service.data.database import Database, now
from ml_service.data.datasets import Datasets
from ml_service.data.deployments import Deployments, Order
from ml_service.data.experiments import BUNDLE, Experiments, deployable
from ml_service.data.feedback import FeedbackStore
from ml_service.data.request_log import RequestLog
from ml_service.data.tables import Artifact, Experiment, Feedback, LoggedRequest
from ml_service.pipeline.lessons import export_lessons
from ml_service.pipeline.retention import KEPT_DEPLOYMENTS, run_retention
from tests.test_database import an_experiment

LONG = " and then it went on for a while, so that it is worth keeping"


def logged(database: Database, request_id: str, prompt: str | None = None, answer: str | None = None) -> None:
    row = {
        "request_id": request_id, "route": "/forward", "experiment_id": 1, "generation": 1, "prompt_tokens": 3,
        "completion_tokens": 4, "finish_reason": "stop", "timings": {}, "prompt": prompt, "answer": answer,
    }  # fmt: skip
    RequestLog(database, keep_days=7).write([row])


def test_corrections_and_accepted_answers_become_data_once(database: Database, tmp_path: Path) -> None:
    store, feedback = tmp_path / "store", FeedbackStore(database)
    logged(database, "known", "the beginning", LONG)
    verdicts = [
        feedback.add("known", True, None, None, "tests")[1],
        feedback.add("other", False, LONG + " at last", "another beginning", "tests")[1],
        feedback.add("third", False, None, None, "tests")[1],
        feedback.add("fourth", True, None, None, "tests")[1],
    ]
    assert verdicts == ["accepted", "corrected", "rejected", "accepted"]
    assert [lesson.text for lesson in feedback.lessons()] == [
        "the beginning" + LONG, "another beginning" + LONG + " at last",
    ]  # fmt: skip
    added = export_lessons(database, store, "tests")
    assert added is not None
    assert added.report.accepted == 2
    assert feedback.lessons() == []
    assert export_lessons(database, store, "tests") is None
    version = Datasets(database, store).latest()
    assert version is not None
    assert version.number == 1
    with database.reading() as session:
        assert {row.batch_id for row in session.query(Feedback).filter(Feedback.id <= 2)} == {added.batch.id}


def test_a_kill_between_adding_and_noting_it_adds_nothing_twice(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, feedback = tmp_path / "store", FeedbackStore(database)
    feedback.add("one", False, LONG, "a beginning", "tests")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FeedbackStore, "became", die)
        export_lessons(database, store, "tests")
    assert len(feedback.lessons()) == 1
    again = export_lessons(database, store, "tests")
    assert again is not None
    assert again.was_there
    assert feedback.lessons() == []


def test_a_blank_correction_is_refused(database: Database) -> None:
    with pytest.raises(BadRequest, match="blank"):
        FeedbackStore(database).add("one", False, " \n", None, "tests")


def test_the_request_log_forgets_in_time(database: Database, tmp_path: Path) -> None:
    logged(database, "old")
    logged(database, "new")
    with database.writing() as session:
        session.query(LoggedRequest).filter_by(request_id="old").update({"expires": now() - timedelta(seconds=1)})
    assert run_retention(database, Settings(store=tmp_path / "store")).requests == 1
    with database.reading() as session:
        assert [row.request_id for row in session.query(LoggedRequest)] == ["new"]


class Bundles:
    """Experiments that finished long ago, each with files."""

    def __init__(self, database: Database, store: Path) -> None:
        self.database, self.experiments = database, Experiments(database, store)

    def add(self, **changes: object) -> int:
        with self.database.writing() as session:
            experiment = an_experiment()
            experiment.state, experiment.finished = "succeeded", now() - timedelta(days=100)
            for name, value in changes.items():
                setattr(experiment, name, value)
            session.add(experiment)
            session.flush()
            bundle = self.experiments.directory(experiment.id) / "bundle"
            bundle.mkdir(parents=True)
            (bundle / "model.onnx").write_bytes(b"0" * 100)
            self.experiments.add_artifact(session, experiment.id, BUNDLE, bundle, f"{experiment.id:064d}")
            return experiment.id

    def there(self) -> set[int]:
        return {each.id for each in self.experiments.find(limit=1000) if self._has(each)}

    def _has(self, experiment: Experiment) -> bool:
        return (self.experiments.directory(experiment.id) / "bundle").is_dir()


def test_retention_keeps_what_somebody_may_need_and_all_rows(database: Database, tmp_path: Path) -> None:
    bundles, deployments = Bundles(database, tmp_path / "store"), Deployments(database)
    deployed = [bundles.add() for _ in range(KEPT_DEPLOYMENTS + 2)]
    for each in deployed:
        deployments.activate(Order(each, "tests", "one after the other"), f"{each:064d}")
    pinned, young = bundles.add(pinned=True), bundles.add(finished=now())
    parent, forgotten = bundles.add(), bundles.add()
    bundles.add(parent_id=parent, state="running", finished=None)
    cleaned = run_retention(database, Settings(store=tmp_path / "store"))
    assert cleaned.experiments == 3
    kept = {*deployed[-KEPT_DEPLOYMENTS:], pinned, young, parent}
    assert kept <= bundles.there()
    assert not {*deployed[:2], forgotten} & bundles.there()
    with database.reading() as session:
        rows = session.query(Artifact).filter_by(experiment_id=forgotten).all()
        assert [row.removed is not None for row in rows] == [True]
        assert deployable(session, [forgotten, pinned]) == {pinned}
    with pytest.raises(Conflict, match="retention removed its files"):
        bundles.experiments.bundle_of(forgotten)
    with pytest.raises(Conflict, match="retention removed its files"):
        deployments.activate(Order(forgotten, "tests", "opened just before"), f"{forgotten:064d}")
    assert run_retention(database, Settings(store=tmp_path / "store")).experiments == 0
