"""A real intake process that is killed, or whose disk is full, at the worst moments: nothing of it is left, or all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.files import sha256_of_file
from ml_service.common.errors import Unavailable
from ml_service.common.settings import PROJECT
from ml_service.data import staging
from ml_service.data.batches import Batches, Received, Upload, report_of
from ml_service.data.database import Database
from ml_service.data.datasets import Datasets
from ml_service.data.leftovers import sweep
from ml_service.data.schema import migrate
from ml_service.data.staging import Staging, upload_sha256, write_texts
from ml_service.data.tables import AuditEvent, Record
from ml_service.pipeline.adding import add_texts
from ml_service.pipeline.intake import take_in
from ml_service.pipeline.intake_process import _when_idle
from tests.databases import Cluster

KILL = "import os, signal\ndie = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
MOMENTS = {
    "before anything is written": "from ml_service.pipeline import intake as m; m.IntakeWriter = die",
    "with half a shard": "from lib.document_shards import ShardWriter as m; m.close = die",
    "before the version's folder moves": "from pathlib import Path as m; m.rename = die",
    "when it has moved": "from ml_service.data.batches import Batches as m; m.accept = die",
    "in the transaction": "from ml_service.data import batches as m; add = m._add_records\n"
    "def m_add(*given): add(*given); die()\nm._add_records = m_add",
}
AFTER = """from ml_service.pipeline import intake as m
take = m._take_in
def _take(*given): take(*given); die()
m._take_in = _take
"""
FOREVER = """import ml_service.pipeline.intake as m, time
m._take_in = lambda *_: (print("in", flush=True), time.sleep(600))
"""
SMALL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
RUN = "\nimport ml_service.pipeline.intake_process as p; p.main()"
TEXTS = [" ".join(random.Random(seed).choices("abcdefghijkl", k=40)) for seed in range(20)]


class World:
    """A store and its database."""

    def __init__(self, url: str | None, store: Path) -> None:
        self.url, self.store, self.database = url, store, Database(url, store)
        migrate(self.database)
        self.batches, self.datasets = Batches(self.database, store), Datasets(self.database, store)

    def receive(self, texts: list[str]) -> tuple[Staging, Received]:
        folder = staging.create(self.store)
        files = [write_texts(folder, texts)]
        folder.remember(files)
        sha256, size = upload_sha256(files), files[0].size_bytes
        return folder, self.batches.receive(Upload("mine", "MIT", [], sha256, size, folder.token, "tests", "key"))

    def start(self, batch_id: int, code: str) -> subprocess.Popen[str]:
        """The process of an intake, whose first lines are ours."""
        variables = {"ML_SERVICE_STORE": str(self.store), "ML_SERVICE_DATABASE_URL": self.url or ""}
        return subprocess.Popen(
            [sys.executable, "-c", code + RUN, str(batch_id)],
            cwd=PROJECT, env=os.environ | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, batch_id: int, code: str) -> tuple[int, str]:
        """(exit code, answer)."""
        with self.start(batch_id, code) as process:
            assert process.stdout is not None
            answer = process.stdout.read()
            return process.wait(), answer

    def everything(self) -> tuple[int, int, list[str], list[str]]:
        """(records, events, versions, files of the data set)."""
        with self.database.reading() as session:
            records, events = session.query(Record).count(), session.query(AuditEvent).count()
        versions = [added.version.fingerprint for added in self.datasets.history()]
        files = [str(path) for path in (self.store / "datasets").rglob("*") if path.is_file()]
        return records, events, versions, sorted(files)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """On SQLite; what differs between the databases is the transaction."""
    world = World(None, tmp_path / "store")
    yield world
    world.database.close()


@pytest.fixture
def world_on_postgresql(cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    world = World(cluster.create(), tmp_path / "store")
    yield world
    world.database.close()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_nothing_and_the_same_upload_can_come_again(world: World, moment: str) -> None:
    kill_and_come_again(world, moment)


def test_a_kill_in_the_transaction_leaves_nothing_on_postgresql(world_on_postgresql: World) -> None:
    kill_and_come_again(world_on_postgresql, "in the transaction")


def kill_and_come_again(world: World, moment: str) -> None:
    add_texts(world.database, world.store, ["something that was there before"], "earlier")
    before = world.everything()
    folder, received = world.receive(TEXTS)
    assert world.run(received.batch.id, KILL + MOMENTS[moment])[0] == -signal.SIGKILL
    assert world.everything()[:3] == before[:3]  # even before anybody has swept
    folder.release()  # the server that waited was killed too
    assert sweep(world.database, world.store) == 1
    assert world.everything() == before
    with pytest.raises(Unavailable, match="interrupted"):
        report_of(world.batches.get(received.batch.id))
    folder, again = world.receive(TEXTS)
    assert again.is_new
    take_in(world.database, world.store, again.batch.id)
    folder.remove()
    assert report_of(world.batches.get(again.batch.id)).accepted == len(TEXTS)
    for shard in world.datasets.shards(2):
        assert sha256_of_file(shard.path) == shard.entry.sha256


def test_a_kill_after_the_transaction_loses_nothing(world: World) -> None:
    folder, received = world.receive(TEXTS)
    assert world.run(received.batch.id, KILL + AFTER)[0] == -signal.SIGKILL
    folder.release()
    assert sweep(world.database, world.store) == 1
    assert report_of(world.batches.get(received.batch.id)).accepted == len(TEXTS)
    assert all(shard.path.is_file() for shard in world.datasets.shards(1))
    assert not list(staging.tokens(world.store))


@pytest.mark.parametrize("moment", ["with half a shard", "when it has moved"])
def test_who_waited_for_one_that_was_killed_does_it_from_the_beginning(world: World, moment: str) -> None:
    folder, received = world.receive(TEXTS)
    assert world.run(received.batch.id, KILL + MOMENTS[moment])[0] == -signal.SIGKILL
    take_in(world.database, world.store, received.batch.id)
    folder.remove()
    assert report_of(world.batches.get(received.batch.id)).accepted == len(TEXTS)
    assert [path.name.split("-")[0] for path in (world.store / "datasets" / "versions").iterdir()] == ["0001"]


def test_an_intake_ends_with_the_server_that_started_it(world: World) -> None:
    """Its standard input closes when the server dies, by kill -9 too."""
    folder, received = world.receive(TEXTS)
    process = world.start(received.batch.id, FOREVER)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    process.stdin.close()
    assert process.wait(timeout=20) == -signal.SIGKILL
    process.stdout.close()
    folder.remove()


def test_a_full_disk_is_told_and_nothing_is_left(world: World) -> None:
    source = random.Random(1)
    folder, received = world.receive(["".join(source.choices("0123456789abcdef", k=16_000)) for _ in range(600)])
    code, answer = world.run(received.batch.id, SMALL_DISK)
    assert code == 0
    assert json.loads(answer)["error"]["kind"] == "InsufficientStorage"
    folder.remove()
    batch = world.batches.get(received.batch.id)
    assert (batch.state, batch.idempotency_key) == ("rejected", None)
    assert world.everything() == (0, 0, [], [])


def test_two_processes_for_one_upload_do_it_once(world: World) -> None:
    """As two servers start them that got the same upload at the same time."""
    folder, received = world.receive(TEXTS)
    processes = [world.start(received.batch.id, "") for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["error"] is None
        with process:
            assert process.wait() == 0
    folder.remove()
    assert [added.version.number for added in world.datasets.history()] == [1]


def test_the_long_part_gives_way_to_others_and_the_transaction_does_not() -> None:
    """Who holds the database's lock must not wait for whoever computes."""
    inside = _when_idle(lambda: os.sched_getscheduler(0))  # type: ignore[arg-type,return-value]
    assert (inside, os.sched_getscheduler(0)) == (os.SCHED_IDLE, os.SCHED_OTHER)
