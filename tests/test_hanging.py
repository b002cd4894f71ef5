"""A PostgreSQL that hangs rather than refuses: nobody waits for long, most do not wait at all, and it may come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from lib.aside import aside
from ml_service.common.errors import Unavailable
from ml_service.data.database import Database
from ml_service.data.deployments import Deployments
from ml_service.data.listener import Listener
from ml_service.data.schema import migrate
from tests.databases import Cluster

PATIENCE_S = 0.3


@pytest.fixture
def impatient(cluster: Cluster, tmp_path: Path) -> Iterator[Database]:
    database = Database(cluster.create(), tmp_path, PATIENCE_S)
    with database.without_limit():
        migrate(database)
    yield database
    database.close()


def _outcome(database: Database) -> tuple[str, float]:
    started = time.monotonic()
    try:
        Deployments(database).generation()
    except Unavailable as reason:
        return str(reason), time.monotonic() - started
    return "answered", time.monotonic() - started


def test_who_asks_a_database_that_hangs_is_told_and_it_is_used_again_when_it_answers(
    impatient: Database, cluster: Cluster
) -> None:
    with cluster.hanging():
        first, waited_s = _outcome(impatient)
        assert first == "the database cannot be reached"
        assert waited_s >= PATIENCE_S
        asker = threading.Thread(target=_outcome, args=(impatient,))
        asker.start()  # one at a time finds out whether it is back
        while not impatient._patience or impatient._patience._asker is None:
            time.sleep(0.001)
        assert _outcome(impatient)[0] == "the database does not answer"  # and the others do not wait for that
        asker.join()
    assert _outcome(impatient)[0] == "answered"
    assert _outcome(impatient)[0] == "answered"


def test_a_new_connection_to_a_database_that_hangs_fails_too(cluster: Cluster, tmp_path: Path) -> None:
    database = Database(cluster.create(), tmp_path, PATIENCE_S)
    with cluster.hanging(), pytest.raises(Unavailable):
        migrate(database)
    database.close()


def test_a_change_of_the_schema_may_take_its_time(impatient: Database) -> None:
    with impatient.without_limit(), impatient.reading() as session:
        session.execute(text("SELECT pg_sleep(1)"))
    with pytest.raises(Unavailable), impatient.reading() as session:
        session.execute(text("SELECT pg_sleep(30)"))


def test_a_lock_may_be_waited_for_longer_than_an_answer(impatient: Database) -> None:
    with impatient.exclusive("long"):
        waiting = threading.Thread(target=lambda: held.append(_held(impatient)))
        held: list[bool] = []
        waiting.start()
        waiting.join(2 * PATIENCE_S)
        assert waiting.is_alive()
    waiting.join()
    assert held == [True]


def _held(database: Database) -> bool:
    with database.exclusive("long"):
        return True


def test_who_listens_is_still_woken(impatient: Database, cluster: Cluster) -> None:
    woken = threading.Event()
    listener = Listener(impatient, "channel", woken.set)
    assert woken.wait(10)  # it listens
    with cluster.hanging():
        time.sleep(2 * PATIENCE_S)
    woken.clear()
    with impatient.writing() as session:
        impatient.notify(session, "channel", "")
    assert woken.wait(10)
    listener.close()


def test_too_many_at_once_are_told_so(impatient: Database) -> None:
    pool = impatient.engine.pool
    taken = [pool.connect() for _ in range(8 + 16)]
    with pytest.raises(Unavailable, match="no connection free"):
        Deployments(impatient).generation()
    for connection in taken:
        connection.close()


def test_work_aside_waits_for_nobody_who_waits_for_a_database() -> None:
    released = threading.Event()

    async def among_the_stuck() -> int:
        stuck = [asyncio.create_task(asyncio.to_thread(released.wait)) for _ in range(100)]
        await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(aside(sum, (1, 2)), 10)
        finally:
            released.set()
            await asyncio.gather(*stuck)

    assert asyncio.run(among_the_stuck()) == 3
