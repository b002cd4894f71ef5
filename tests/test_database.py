"""The database, of either kind: the schema is what the tables say, all or nothing, one at a time, sealed history."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ml_service.common.errors import Unavailable
from ml_service.common.settings import PROJECT
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.schema import HEAD, alembic_config, current_revision, migrate
from ml_service.data.tables import ApiKey, AuditEvent, Experiment, MetricPoint
from tests.databases import Cluster


def an_experiment() -> Experiment:
    return Experiment(
        name="first", kind="train", state="queued", plan={}, seed=0, commit="unknown", dirty=False, environment={},
        attempt=0, summary={}, pinned=False, actor="tests", created=now(),
    )  # fmt: skip


def test_the_schema_is_what_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        command.check(alembic_config(connection))


def test_a_migration_goes_back_and_forth(database: Database) -> None:
    with database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        connection.commit()
    assert migrate(database)
    assert current_revision(database) == HEAD


def test_many_who_migrate_at_once_do_it_once(database_url: str | None, tmp_path: Path) -> None:
    done: list[bool] = []
    databases = [Database(database_url, tmp_path / "store") for _ in range(6)]
    threads = [threading.Thread(target=lambda d=d: done.append(migrate(d))) for d in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False] * 5 + [True]
    for database in databases:
        database.close()


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as session:
        session.add(an_experiment())
        session.flush()
        _ = 1 / 0
    with database.reading() as session:
        assert session.query(Experiment).count() == 0


def test_moments_and_numbers_come_back_as_they_were(database: Database) -> None:
    moment = now()
    with database.writing() as session:
        experiment = an_experiment()
        experiment.created = moment
        session.add(experiment)
        session.flush()
        for step, value in enumerate((1.5, math.nan, math.inf, -math.inf)):
            point = MetricPoint(experiment_id=experiment.id, key="loss", step=step, value=value, tokens=0, seconds=0.0)
            session.add(point)
    with database.reading() as session:
        (read,) = session.query(Experiment)
        assert read.created == moment
        values = [point.value for point in session.query(MetricPoint).order_by(MetricPoint.step)]
        assert values[0] == 1.5
        assert math.isnan(values[1])
        assert values[2:] == [math.inf, -math.inf]


def test_only_one_is_in_an_exclusive_block(database_url: str | None, tmp_path: Path) -> None:
    inside = most = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        database = Database(database_url, tmp_path / "store")
        for _ in range(5):
            with database.exclusive("work"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.001)
                with guard:
                    inside -= 1
        database.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_who_dies_in_an_exclusive_block_leaves_it(database_url: str | None, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ml_service.data.database import Database\n"
        "database = Database(sys.argv[2] or None, Path(sys.argv[1]))\n"
        "with database.exclusive('work'):\n"
        "    print('in', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "store"), database_url or ""],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    database = Database(database_url, tmp_path / "store")
    with database.exclusive("work"):
        pass
    database.close()


def test_the_audit_log_holds_together_and_refuses_change(database: Database) -> None:
    for number in range(3):
        with database.writing() as session:
            audit.record(database, session, "tests", "deploy", f"experiment {number}", {"generation": number}, {})
    assert audit.verify(database) == (3, None)
    for change in ("UPDATE audit_events SET actor = 'nobody'", "DELETE FROM audit_events"):
        with pytest.raises(DBAPIError, match="stay as they are"), database.writing() as session:
            session.execute(text(change))


@pytest.mark.parametrize("harm", ["changed", "taken out"])
def test_who_gets_past_the_trigger_is_found_out(database: Database, harm: str) -> None:
    for number in range(3):
        with database.writing() as session:
            audit.record(database, session, "tests", "deploy", f"experiment {number}")
    with database.writing() as session:
        if database.is_postgresql:
            session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER audit_events_stay"))
        else:
            session.execute(text("DROP TRIGGER audit_events_no_update"))
            session.execute(text("DROP TRIGGER audit_events_no_delete"))
        harmed = session.query(AuditEvent).filter_by(target="experiment 1")
        if harm == "changed":
            harmed.update({"actor": "nobody"})
        else:
            harmed.delete()
    count, problem = audit.verify(database)
    assert count == 1
    assert problem is not None
    assert harm in problem


def test_many_who_write_to_the_audit_log_at_once_make_one_chain(database: Database) -> None:
    def write(number: int) -> None:
        with database.writing() as session:
            audit.record(database, session, f"thread {number}", "deploy", "slot")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify(database) == (8, None)


def test_what_must_be_unique_is(database: Database) -> None:
    key = {"prefix": "a", "sha256": "0", "scopes": [], "created": now()}
    with pytest.raises(DBAPIError), database.writing() as session:
        session.add_all([ApiKey(name="one", **key), ApiKey(name="two", **key)])


def test_a_database_that_is_away_is_told_in_words_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    cluster = Cluster()
    database = Database(cluster.create(), tmp_path / "store")
    try:
        migrate(database)
        cluster.stop()
        with pytest.raises(Unavailable, match="cannot be reached"), database.reading() as session:
            session.query(Experiment).count()
        cluster.start()
        with database.reading() as session:
            assert session.query(Experiment).count() == 0
    finally:
        database.close()
        cluster.close()


def test_another_kind_of_database_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mysql is neither sqlite nor postgresql"):
        Database("mysql://nobody@nowhere/nothing", tmp_path)
