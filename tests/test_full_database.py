"""A database whose disk is full, or that is away: whoever can wait waits, and does not fail for it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.orm import Session

from lib.files import NO_ROOM_CODE, is_full_disk
from ml_service import cli
from ml_service.common.errors import InsufficientStorage, ServiceError, Unavailable
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.jobs import Claim, Jobs
from ml_service.pipeline.job_outcome import settle
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.worker import Worker

CLAIM = Claim(1, "retrain", None, {}, 1, 1)


class Refusing(Jobs):
    """Writes only from the second try on."""

    def __init__(self, database: Database, error: ServiceError, refusals: int = 1) -> None:
        super().__init__(database)
        self._error, self._left = error, refusals
        self.ended: list[str] = []

    def _maybe_refuse(self) -> None:
        self._left -= 1
        if self._left >= 0:
            raise self._error

    @contextmanager
    def fenced(self, claim: Claim) -> Iterator[Session]:
        self._maybe_refuse()
        yield Session()

    def heartbeat(self, claim: Claim, progress: dict[str, Any]) -> bool:
        self._maybe_refuse()
        return False

    def claim(self, *_: Any, **__: Any) -> Claim | None:
        self._maybe_refuse()
        return None

    def end(self, session: Session, claim: Claim, state: str, error: str | None = None) -> None:
        self.ended.append(f"{state}: {error}")


@pytest.fixture(params=[InsufficientStorage("the database's disk is full"), Unavailable("away")], ids=["full", "away"])
def refusal(request: pytest.FixtureRequest) -> ServiceError:
    error: ServiceError = request.param
    return error


@pytest.fixture
def local(tmp_path: Any) -> Iterator[Database]:
    database = Database(None, tmp_path)
    yield database
    database.close()


def test_a_job_goes_on_while_its_heartbeats_cannot_be_written(local: Database, refusal: ServiceError) -> None:
    lease = Lease(Refusing(local, refusal), CLAIM, threading.Event())
    lease.beat()  # raises nothing
    assert not lease.is_cancelled
    assert not Lease(Refusing(local, refusal), CLAIM, threading.Event()).tell(lambda session: None)


def test_what_must_not_be_lost_is_written_as_soon_as_that_is_possible(local: Database, refusal: ServiceError) -> None:
    assert Lease(Refusing(local, refusal), CLAIM, threading.Event()).persist(lambda session: "written") == "written"


def test_a_job_that_failed_is_written_down_as_such_afterwards(local: Database, refusal: ServiceError) -> None:
    jobs = Refusing(local, refusal)

    def work(_: Lease) -> None:
        raise InsufficientStorage("there is no room for a checkpoint")

    assert settle(jobs, Lease(jobs, CLAIM, threading.Event()), work).startswith("failed")
    assert jobs.ended == ["failed: there is no room for a checkpoint"]


def test_a_full_disk_is_known_behind_the_errors_of_libraries() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    hidden = RuntimeError("cannot write")
    hidden.__cause__ = full
    assert is_full_disk(full)
    assert is_full_disk(hidden)
    assert is_full_disk(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full_disk(FileNotFoundError(errno.ENOENT, "No such file"))
    assert not is_full_disk(None)


def test_a_command_that_finds_no_room_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("tensors: No space left on device")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == NO_ROOM_CODE
    assert "the disk is full: make room and try again" in capsys.readouterr().err


def test_a_worker_outlives_a_database_that_cannot_be_written(local: Database, refusal: ServiceError) -> None:
    worker = Worker(local, Settings(), Refusing(local, refusal))
    worker.run(until_idle_s=0.01)  # returns, and raises nothing
