"""Jobs: queued wishes, claimed with a lease by one worker at a time; who lost the lease writes nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lib.processes import is_gone
from ml_service.common.errors import Conflict
from ml_service.common.types import storable
from ml_service.data.database import Database, now
from ml_service.data.states import change_state
from ml_service.data.tables import Experiment, Job
from ml_service.utils.handing_on import CONTEXT, handed_on
from ml_service.utils.tracing import messaging, span

LEASE_S = 30.0
BACK_OFF_S = (0.0, 5.0, 30.0)
"""How long a job waits after it was lost or failed for the first, second and each further time."""
MAX_ATTEMPTS = 5
REACHED = "reached"
"""In a job's progress: a number that grows with what need not be done again."""
LOST = "the worker was lost {times} times without getting any further: its log tells more"


_RUNNING = select(Job).where(Job.state == "running")


class LeaseLost(Exception):
    """Another worker has the job, or nobody: whatever was to be written is not."""


@dataclass(frozen=True)
class Claim:
    """A job that this worker has, until its lease ends."""

    job_id: int
    kind: str
    experiment_id: int | None
    payload: dict[str, Any]
    token: int
    """The fencing token: every write names it."""
    attempt: int
    progress: dict[str, Any] = field(default_factory=dict)


class Jobs:
    """The queue. Leases are kept by the workers' own clocks, which should agree within seconds."""

    def __init__(
        self,
        database: Database,
        lease_s: float = LEASE_S,
        clock: Callable[[], datetime] = now,
        is_gone: Callable[[str], bool] = is_gone,
    ) -> None:
        """`is_gone` tells whether an owner is known to be dead, so that its lease need not run out first."""
        self._database, self._lease, self._clock = database, timedelta(seconds=lease_s), clock
        self._is_gone = is_gone
        self.lease_s = lease_s

    def queue(
        self,
        session: Session,
        kind: str,
        experiment_id: int | None = None,
        payload: dict[str, Any] | None = None,
        dedup_key: str | None = None,
        priority: int = 0,
    ) -> int:
        """Wish for something; the job's id. With a `dedup_key` the same wish that waits already is meant."""
        if dedup_key is not None:
            waiting = session.scalar(select(Job.id).where(Job.dedup_key == dedup_key, Job.state == "queued"))
            if waiting is not None:
                return waiting
        moment = self._clock()
        job = Job(
            kind=kind, experiment_id=experiment_id, priority=priority, state="queued", payload=payload or {},
            dedup_key=dedup_key, attempt=0, max_attempts=MAX_ATTEMPTS, not_before=moment, lease_token=0,
            cancel_requested=False, progress={}, created=moment,
        )  # fmt: skip
        with span(f"queue {kind}", "producer", None, **messaging(kind, "queue", "send")) as made:
            if known := handed_on():  # who fulfils it goes on with the request and the trace that wished for it
                job.payload = {CONTEXT: known, **job.payload}
            session.add(job)
            session.flush()
            if made is not None:
                made.set_attribute("messaging.message.id", str(job.id))
        return job.id

    def queue_once(self, kind: str, every_s: float) -> None:
        """Wish for something that is done once in so many seconds, whoever wishes."""
        with self._database.writing() as session:
            self._database.lock_for_this_transaction(session, kind)
            lately = select(Job.id).where(Job.kind == kind, Job.created > self._clock() - timedelta(seconds=every_s))
            if session.scalar(lately.limit(1)) is None:
                self.queue(session, kind, dedup_key=kind)

    def wait(self) -> bool:
        """Whether any job could be claimed now or later: a worker has something to live for."""
        with self._database.reading() as session:
            if session.scalar(select(Job.id).where(Job.state == "queued").limit(1)) is not None:
                return True
            return any(self._is_lost(job, self._clock()) for job in session.scalars(_RUNNING))

    def claim(
        self, owner: str, lock_key: str, kinds: Sequence[str] | None = None, job_id: int | None = None
    ) -> Claim | None:
        """Take the next job, of these kinds or this one alone where that is said.

        None where there is none, or another job runs under this lock (one training a device).
        """
        wanted = select(Job).where(Job.state == "queued", Job.not_before <= self._clock())
        if kinds is not None:
            wanted = wanted.where(Job.kind.in_(kinds))
        if job_id is not None:
            wanted = wanted.where(Job.id == job_id)
        try:
            with self._database.writing() as session:
                return self._claim(session, owner, lock_key, wanted)
        except IntegrityError:  # another worker of this device was faster
            return None

    def _claim(self, session: Session, owner: str, lock_key: str, due: Select[Job]) -> Claim | None:
        moment = self._clock()
        self._take_back_lost(session, moment)
        busy = select(Job.id).where(Job.state == "running", Job.lock_key == lock_key)
        if session.scalar(busy) is not None:
            return None
        next_one = due.order_by(Job.priority.desc(), Job.id).limit(1).with_for_update(skip_locked=True)
        job = session.scalar(next_one)
        if job is None:
            return None
        job.state, job.lock_key, job.attempt = "running", lock_key, job.attempt + 1
        job.lease_owner, job.lease_token, job.lease_end = owner, job.lease_token + 1, moment + self._lease
        session.flush()
        if job.experiment_id is not None:
            change_state(session, Experiment, job.experiment_id, ("queued",), "running", attempt=job.attempt)
            begins = update(Experiment).where(Experiment.id == job.experiment_id, Experiment.started.is_(None))
            session.execute(begins.values(started=moment))
        return Claim(job.id, job.kind, job.experiment_id, job.payload, job.lease_token, job.attempt, dict(job.progress))

    def _take_back_lost(self, session: Session, moment: datetime) -> None:
        """Jobs whose lease ran out wait again, unless their attempts are used up."""
        for job in session.scalars(_RUNNING.with_for_update(skip_locked=True)).all():
            if not self._is_lost(job, moment):
                continue
            if job.attempt >= job.max_attempts:
                self._end(session, job, "failed", LOST.format(times=job.attempt))
            else:
                self._requeue(session, job, moment + self._delay(job))

    @contextmanager
    def fenced(self, claim: Claim) -> Iterator[Session]:
        """A transaction that only the holder of the lease can make. Raises LeaseLost, and nothing is written."""
        with self._database.writing() as session:
            self._touch(session, claim)
            yield session

    def heartbeat(self, claim: Claim, progress: dict[str, Any]) -> bool:
        """Keep the lease and tell the progress; whether somebody wants the job to stop. Raises LeaseLost.

        A job that has got further starts to count its attempts anew: only standing still uses them up.
        """
        with self._database.writing() as session:
            values: dict[str, Any] = {"progress": progress}
            if progress.get(REACHED, 0.0) > claim.progress.get(REACHED, 0.0):
                values["attempt"] = 1
            self._touch(session, claim, **values)
            return bool(session.scalar(select(Job.cancel_requested).where(Job.id == claim.job_id)))

    def give_back(self, claim: Claim) -> None:
        """Let another worker go on; no attempt is spent. Raises LeaseLost."""
        with self.fenced(claim) as session:
            job = session.get_one(Job, claim.job_id)
            job.attempt = max(job.attempt - 1, 0)
            self._requeue(session, job, self._clock())

    def try_again(self, claim: Claim, error: str) -> bool:
        """Put a job that failed for now back with a delay; False where its attempts are used up: it has failed."""
        with self.fenced(claim) as session:
            job = session.get_one(Job, claim.job_id)
            if job.attempt >= job.max_attempts:
                self._end(session, job, "failed", error)
                return False
            job.error = storable(error)
            self._requeue(session, job, self._clock() + self._delay(job))
            return True

    def end(self, session: Session, claim: Claim, state: str, error: str | None = None) -> None:
        """The job is over, and so is its experiment; in a transaction of `fenced`."""
        self._end(session, session.get_one(Job, claim.job_id), state, error)

    def cancel(self, session: Session, experiment_id: int) -> str:
        """Stop a waiting job, or ask a running one to; the state that follows. Raises Conflict where it is over."""
        wanted = select(Job.id).where(Job.experiment_id == experiment_id, Job.state.in_(("queued", "running")))
        job_id = session.scalar(wanted.order_by(Job.id.desc()))
        if job_id is None:
            state = session.scalar(select(Experiment.state).where(Experiment.id == experiment_id))
            raise Conflict(f"experiment {experiment_id} is {state} already: there is nothing to cancel")
        return self.cancel_job(session, job_id)

    def cancel_job(self, session: Session, job_id: int) -> str:
        """The same for any job that is not over; one that is keeps its state."""
        job = session.get_one(Job, job_id, with_for_update=True)
        if job.state not in ("queued", "running"):
            return job.state
        if job.state == "queued" and not job.progress:
            self._end(session, job, "cancelled", None)
            return "cancelled"
        job.cancel_requested, job.not_before = True, self._clock()
        return "running"

    def of_experiments(self, experiment_ids: Sequence[int]) -> dict[int, Job]:
        """The latest job of each that has one, in one question."""
        wanted = select(Job).where(Job.experiment_id.in_(experiment_ids)).order_by(Job.id)
        with self._database.reading() as session:
            return {job.experiment_id: job for job in session.scalars(wanted) if job.experiment_id is not None}

    def of_experiment(self, experiment_id: int) -> Job | None:
        """Its latest job."""
        return self.of_experiments([experiment_id]).get(experiment_id)

    def _touch(self, session: Session, claim: Claim, **values: Any) -> None:
        held = update(Job).where(Job.id == claim.job_id, Job.state == "running", Job.lease_token == claim.token)
        result = session.execute(held.values(lease_end=self._clock() + self._lease, **values))
        assert isinstance(result, CursorResult), "an update tells how many rows it changed"
        if result.rowcount != 1:
            raise LeaseLost(f"job {claim.job_id} is no longer ours")

    def _is_lost(self, job: Job, moment: datetime) -> bool:
        assert job.lease_end is not None, "a running job has a lease"
        return job.lease_end < moment or self._is_gone(job.lease_owner or "")

    def _delay(self, job: Job) -> timedelta:
        return timedelta(seconds=BACK_OFF_S[min(job.attempt, len(BACK_OFF_S)) - 1])

    def _requeue(self, session: Session, job: Job, not_before: datetime) -> None:
        job.state, job.not_before, job.lock_key, job.lease_end = "queued", not_before, None, None
        if job.experiment_id is not None:
            change_state(session, Experiment, job.experiment_id, ("running",), "queued")

    def _end(self, session: Session, job: Job, state: str, error: str | None) -> None:
        moment, error = self._clock(), storable(error) if error is not None else None
        job.state, job.finished, job.error, job.lock_key, job.lease_end = state, moment, error, None, None
        if job.experiment_id is not None:
            change_state(
                session, Experiment, job.experiment_id, ("queued", "running"), state,
                finished=moment, error=error, phase=None,
            )  # fmt: skip
        session.flush()
