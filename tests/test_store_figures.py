"""What a store tells Prometheus of itself: counts, trainings, scores, replicas; on both databases, and without one."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from ml_service.common.errors import Unavailable
from ml_service.data.database import Database, now
from ml_service.data.deployments import Deployments, Order
from ml_service.data.evaluations import Asked, Evaluations
from ml_service.data.jobs import LEASE_S, Claim, Jobs
from ml_service.data.replicas import Replicas
from ml_service.data.store_figures import store_figures
from ml_service.data.tables import Artifact, Job, Replica
from ml_service.pipeline import store_watch
from ml_service.pipeline.store_watch import StoreWatch
from ml_service.utils.telemetry import Telemetry
from tests.test_database import an_experiment


def a_training(database: Database, jobs: Jobs, device: str = "gpu") -> Claim:
    with database.writing() as session:
        session.add(experiment := an_experiment())
        session.flush()
        job_id = jobs.queue(session, "retrain", experiment.id)
    claim = jobs.claim("me", device, job_id=job_id)
    assert claim is not None
    return claim


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(f"ml_service_{name}", labels)


def test_an_empty_store_has_counts_of_zero_and_nothing_to_say_of_trainings(database: Database) -> None:
    figures = store_figures(database)
    assert figures["experiments"] == {"succeeded": 0, "failed": 0, "cancelled": 0}
    assert figures["jobs"] == {"queued": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert figures["dataset_records"] == {"train": 0, "validation": 0}
    assert figures["replicas"] == {"ready": 0, "behind": 0}
    assert not figures.keys() & {"training_loss", "training_heartbeat_age_seconds", "active_generation"}


def test_running_trainings_tell_their_pace_and_the_age_of_the_oldest_heartbeat(database: Database) -> None:
    jobs = Jobs(database)
    first, second = a_training(database, jobs), a_training(database, jobs, "gpu 2")
    jobs.heartbeat(first, {"tokens_per_second": 1000.0, "train_loss": 3.0})
    jobs.heartbeat(second, {"tokens_per_second": 500.0, "train_loss": 4.0})
    with database.writing() as session:
        lost = session.get_one(Job, first.job_id)
        assert lost.lease_end is not None
        lost.lease_end -= 3 * (lost.lease_end - now())
    figures = store_figures(database)
    assert figures["training_tokens_per_second"] == {"": 1500.0}
    assert figures["training_loss"] == {"": 4.0}
    assert LEASE_S * 2.9 < figures["training_heartbeat_age_seconds"][""] < LEASE_S * 3.5
    assert figures["jobs"]["running"] == 2
    for claim in (first, second):
        with jobs.fenced(claim) as session:
            jobs.end(session, claim, "failed", "no luck")
    figures = store_figures(database)
    assert figures["experiments"]["failed"] == figures["jobs"]["failed"] == 2
    assert "training_loss" not in figures


def test_the_scores_are_the_latest_of_the_model_that_should_answer_and_only_names_of_ours(database: Database) -> None:
    evaluations, jobs = Evaluations(database), Jobs(database)
    with database.writing() as session:
        session.add(experiment := an_experiment())
        session.flush()
        number = experiment.id
        role = {"role": "bundle", "path": "bundles/1", "sha256": "a", "size_bytes": 1}
        session.add(Artifact(experiment_id=number, **role))
        experiment.state = "succeeded"
    with database.writing() as session:
        for source, bits in (("new", 2.5), ("known", 9.0)):
            evaluations.remember(session, number, "a", source, source, {"bits_per_byte": bits, "loss": 1.0}, 7)
    assert "evaluation_score" not in store_figures(database)
    Deployments(database).activate(Order(number, "me", "why"), "a")
    assert store_figures(database)["evaluation_score"] == {"bits_per_byte": 2.5, "loss": 1.0}
    asked = Asked(number, "a", "file", "file", "folder", "me")
    standing, _ = evaluations.ask(asked)
    metrics: dict[str, Any] = {"bits_per_byte": {"value": 2.0}, "<script>": {"value": 1.0}, "f1": {"value": None}}
    with database.writing() as session:
        evaluations.finish(session, standing.evaluation.id, "succeeded", {"metrics": metrics, "count": 3})
    figures = store_figures(database)
    assert figures["evaluation_score"] == {"bits_per_byte": 2.0, "loss": 1.0}
    assert figures["active_generation"] == {"": 1.0}
    assert abs(figures["active_since_timestamp_seconds"][""] - now().timestamp()) < 60
    assert jobs.wait()  # the evaluation's own


def test_replicas_that_are_behind_are_told_apart_from_those_that_are_ready(database: Database) -> None:
    for number, state in enumerate(("ready", "ready", "behind")):
        Replicas(database).beat(Replica(id=f"{number}", host="a", pid=number, generation=1, state=state))
    assert store_figures(database)["replicas"] == {"ready": 2, "behind": 1}


def test_many_experiments_are_counted_from_an_index(database: Database) -> None:
    """Not a scan of rows that hold whole plans and summaries."""
    if database.is_postgresql:
        pytest.skip("PostgreSQL chooses by the size of its tables")
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    store_figures(database)
    counting = [question for question in asked if "GROUP BY" in question]
    assert len(counting) == 2
    for question in counting:
        with database.engine.connect() as connection:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {question}").all())
        assert "USING COVERING INDEX" in plan


def test_a_database_that_goes_away_leaves_a_gauge_that_says_so_and_no_old_figures(tmp_path: Path) -> None:
    database, telemetry = Database(None, tmp_path / "store"), Telemetry()
    watch = StoreWatch(database, tmp_path / "store", telemetry)
    asyncio.run(watch.look())  # it has no tables: that is a bug of ours, and is logged as such
    assert value(telemetry, "database_up") == 0
    from ml_service.data.schema import migrate

    migrate(database)
    asyncio.run(watch.look())
    assert value(telemetry, "database_up") == 1
    assert value(telemetry, "jobs", state="queued") == 0
    database.close()
    shutil.rmtree(tmp_path / "store")
    asyncio.run(watch.look())
    assert value(telemetry, "database_up") == 0
    assert value(telemetry, "jobs", state="queued") is None
    assert (value(telemetry, "store_size_bytes") or 0) >= (value(telemetry, "store_free_bytes") or 0) > 0
    database.close()


def test_a_database_that_hangs_is_away_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    telemetry, gate = Telemetry(), threading.Event()
    watch = StoreWatch(database, tmp_path / "store", telemetry, patience_s=0.01)
    asyncio.run(watch.look())
    figures = store_figures(database)

    def hang(_: Database) -> object:
        assert gate.wait(10)
        return figures

    monkeypatch.setattr(store_watch, "store_figures", hang)

    async def look() -> None:
        task = asyncio.create_task(watch.look())
        while value(telemetry, "database_up") != 0:
            await asyncio.sleep(0.001)
        assert value(telemetry, "jobs", state="queued") is None
        gate.set()
        await task

    asyncio.run(look())
    assert value(telemetry, "database_up") == 1


def test_what_cannot_be_reached_is_no_bug(tmp_path: Path) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nothing", tmp_path / "store")
    with pytest.raises(Unavailable):
        store_figures(database)
    telemetry = Telemetry()
    asyncio.run(StoreWatch(database, tmp_path / "store", telemetry).look())
    assert value(telemetry, "database_up") == 0
    database.close()


def test_a_figure_without_an_instrument_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="no instrument"):
        Telemetry().tell_store({"mood": {"": 1.0}})


def test_every_label_is_there_from_the_start_so_that_the_first_of_its_kind_is_an_increase() -> None:
    telemetry = Telemetry()
    for name, label, values in (
        ("requests_finished_total", "finish_reason", ("stop", "length", "abort", "timeout", "error", "rejected")),
        ("images_total", "result", ("read", "unreadable", "refused", "failed", "rejected")),
        ("feedback_total", "verdict", ("accepted", "corrected", "rejected")),
    ):
        assert [value(telemetry, name, **{label: each}) for each in values] == [0.0] * len(values)
