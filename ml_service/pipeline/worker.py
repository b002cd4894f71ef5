"""The worker: takes jobs, each in processes of its own, and lets nothing be lost when it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lib.processes import own_name, run_when_idle
from ml_service.common.errors import CANNOT_WRITE_NOW
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.deployments import Order
from ml_service.data.evaluations import EVALUATE
from ml_service.data.feedback import FEEDBACK
from ml_service.data.jobs import Jobs
from ml_service.data.schema import migrate
from ml_service.pipeline.deploy import GATE, Deployer
from ml_service.pipeline.evaluating import run_evaluation
from ml_service.pipeline.job_outcome import settle
from ml_service.pipeline.lanes import Lanes
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.lessons import export_lessons
from ml_service.pipeline.retention import RETENTION, run_retention
from ml_service.pipeline.retrain import RETRAIN
from ml_service.pipeline.retraining import DEPLOY, Retraining
from ml_service.utils.logs import EventLogger

log = EventLogger("worker")
_LANES = {"training": (RETRAIN,), "judging": (EVALUATE,), "upkeep": (DEPLOY, RETENTION, FEEDBACK)}
"""One training a machine, and beside it whoever asks how good a model is, and what the store itself needs."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Worker:
    """Works on one database and store until it is told to end, or for as long as there is work."""

    def __init__(self, database: Database, settings: Settings, jobs: Jobs | None = None) -> None:
        self._database, self._settings = database, settings
        self._jobs = jobs or Jobs(database)
        self._owner = own_name()
        self._host = socket.gethostname()
        self._kinds: dict[str, Callable[[Lease], None]] = {
            RETRAIN: self._retrain,
            DEPLOY: self._deploy,
            RETENTION: self._clean,
            FEEDBACK: self._learn_from_feedback,
            EVALUATE: self._evaluate,
        }
        self.stop = threading.Event()

    def run(self, until_idle_s: float | None = None) -> None:
        """Work until `stop` is set; with `until_idle_s`, also until there was nothing to do for so long."""
        Lanes(tuple(_LANES), self.stop).run(self._work_once, until_idle_s)

    def _work_once(self, lane: str) -> bool:
        try:
            claim = self._jobs.claim(self._owner, f"{lane} on {self._host}", _LANES[lane])
        except CANNOT_WRITE_NOW as error:
            log.warning("worker.waits", reason=str(error))
            return False
        if claim is None:
            return False
        settle(self._jobs, Lease(self._jobs, claim, self.stop), self._kinds[claim.kind])
        return True

    def _retrain(self, lease: Lease) -> None:
        Retraining(self._database, self._settings, self._jobs, lease).run()

    def _deploy(self, lease: Lease) -> None:
        """What the gate let through; a worker that died in between did it already, or not at all."""
        experiment_id, reason = lease.claim.payload["experiment_id"], lease.claim.payload["reason"]
        order = Order(experiment_id, GATE, reason, key=f"gate:{experiment_id}")
        Deployer(self._database, self._settings).deploy(order)
        lease.persist(lambda session: self._jobs.end(session, lease.claim, "succeeded"))

    def _evaluate(self, lease: Lease) -> None:
        run_evaluation(self._database, self._settings, self._jobs, lease)

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
        worker = Worker(database, settings)
        with _stopping_by_signal(worker.stop):
            migrate(database)
            log.info("worker.started", threads=settings.training_threads)
            worker.run(until_idle_s)
        log.info("worker.ended")
    finally:
        database.close()


@contextmanager
def _stopping_by_signal(stop: threading.Event) -> Iterator[None]:
    def ask(number: int, _: FrameType | None) -> None:
        log.info("worker.stopping", signal=signal.Signals(number).name)
        if stop.is_set():
            os._exit(128 + number)  # the second one ends at once; what this process has started ends with it
        stop.set()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
