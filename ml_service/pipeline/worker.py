"""The worker: takes one job after the other, each in processes of its own, and lets nothing be lost when it ends."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lib.processes import own_name, run_when_idle
from ml_service.common.errors import ServiceError, Unavailable
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.deployments import Order
from ml_service.data.feedback import FEEDBACK
from ml_service.data.jobs import Claim, Jobs, LeaseLost
from ml_service.data.schema import migrate
from ml_service.pipeline.deploy import Deployer
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.lessons import export_lessons
from ml_service.pipeline.retention import RETENTION, run_retention
from ml_service.pipeline.retrain import RETRAIN
from ml_service.pipeline.retraining import DEPLOY, Cancelled, GivenBack, Retraining
from ml_service.pipeline.stage_process import StageFailed, StageKilled
from ml_service.utils.logs import EventLogger

log = EventLogger("worker")
_LOOK_EVERY_S = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """Works on one database and store until it is told to end, or for as long as there is work."""

    def __init__(self, database: Database, settings: Settings, jobs: Jobs | None = None) -> None:
        self._database, self._settings = database, settings
        self._jobs = jobs or Jobs(database)
        self._owner = own_name()
        self._device = f"training on {socket.gethostname()}"
        self._kinds: dict[str, Callable[[Lease], None]] = {
            RETRAIN: self._retrain,
            DEPLOY: self._deploy,
            RETENTION: self._clean,
            FEEDBACK: self._learn_from_feedback,
        }
        self.stop = threading.Event()

    def run(self, until_idle_s: float | None = None) -> None:
        """Work until `stop` is set; with `until_idle_s`, also until there was nothing to do for so long."""
        last_work = time.monotonic()
        while not self.stop.is_set():
            if self._work_once():
                last_work = time.monotonic()
                continue
            if until_idle_s is not None and time.monotonic() - last_work > until_idle_s:
                return
            self.stop.wait(_LOOK_EVERY_S)

    def _work_once(self) -> bool:
        try:
            claim = self._jobs.claim(self._owner, self._device)
        except Unavailable as error:
            log.warning("worker.waits", reason=str(error))
            return False
        if claim is None:
            return False
        log.info("job.began", job=claim.job_id, kind=claim.kind, experiment=claim.experiment_id, attempt=claim.attempt)
        lease = Lease(self._jobs, claim, self.stop)
        try:
            outcome = self._outcome_of(lease)
        except (LeaseLost, Unavailable) as reason:
            outcome = f"lost: {reason}"
        log.info("job.ended", job=claim.job_id, kind=claim.kind, experiment=claim.experiment_id, outcome=outcome)
        return True

    def _outcome_of(self, lease: Lease) -> str:
        """Do the job and write down how it ended. Raises LeaseLost, or Unavailable where that could not be written."""
        claim = lease.claim
        try:
            self._kinds[claim.kind](lease)
        except GivenBack:
            self._jobs.give_back(claim)
            return "given back"
        except Cancelled:
            lease.persist(lambda session: self._jobs.end(session, claim, "cancelled"))
            return "cancelled"
        except StageKilled as killed:
            return self._again(claim, str(killed))
        except (StageFailed, ServiceError) as failed:
            if isinstance(failed, Unavailable):
                raise
            reason = str(failed)
            lease.persist(lambda session: self._jobs.end(session, claim, "failed", reason))
            return f"failed: {reason}"
        except LeaseLost:
            raise
        except Exception as bug:
            log.exception("job.broke", job=claim.job_id, error=type(bug).__name__)
            return self._again(claim, "an error of the service; the worker's log has it")
        return "succeeded"

    def _again(self, claim: Claim, reason: str) -> str:
        is_queued = self._jobs.try_again(claim, reason)
        return f"{reason}: {'it will be tried again' if is_queued else 'that was the last attempt'}"

    def _retrain(self, lease: Lease) -> None:
        Retraining(self._database, self._settings, self._jobs, lease).run()

    def _deploy(self, lease: Lease) -> None:
        """What the gate let through; a worker that died in between did it already, or not at all."""
        experiment_id, reason = lease.claim.payload["experiment_id"], lease.claim.payload["reason"]
        order = Order(experiment_id, "gate", reason, key=f"gate:{experiment_id}")
        Deployer(self._database, self._settings).deploy(order)
        lease.persist(lambda session: self._jobs.end(session, lease.claim, "succeeded"))

    def _learn_from_feedback(self, lease: Lease) -> None:
        export_lessons(self._database, self._settings.store, lease.claim.payload["actor"])
        lease.persist(lambda session: self._jobs.end(session, lease.claim, "succeeded"))

    def _clean(self, lease: Lease) -> None:
        run_retention(self._database, self._settings, lease.beat)
        lease.persist(lambda session: self._jobs.end(session, lease.claim, "succeeded"))


def work(settings: Settings, until_idle_s: float | None) -> None:
    """Be a worker process: idle scheduling class, migrated database, a polite end. Blocks."""
    run_when_idle()
    database = Database(settings.database_address, settings.store)
    try:
        migrate(database)
        worker = Worker(database, settings)
        with _stopping_by_signal(worker.stop):
            log.info("worker.started", threads=settings.training_threads)
            worker.run(until_idle_s)
        log.info("worker.ended")
    finally:
        database.close()


@contextmanager
def _stopping_by_signal(stop: threading.Event) -> Iterator[None]:
    def ask(number: int, _: FrameType | None) -> None:
        log.info("worker.stopping", signal=signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
