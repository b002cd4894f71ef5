"""Questions to models: small ones are worked on at once, beside the requests; large ones wait for a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from lib.processes import own_name
from ml_service.common.errors import CANNOT_WRITE_NOW, NotFound, ServiceError, Unavailable
from ml_service.common.evaluation_options import EvaluationOptions
from ml_service.common.settings import Settings
from ml_service.data.batch_report import StoredError
from ml_service.data.database import Database
from ml_service.data.evaluations import Evaluations, Standing
from ml_service.data.jobs import Jobs
from ml_service.data.staging import ReceivedFile
from ml_service.inference.handles import Live
from ml_service.pipeline.evaluating import Evaluator, run_evaluation
from ml_service.pipeline.job_outcome import settle
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.supervisor import Supervisor

DEFAULT_WAIT_S = 30.0
_LOOK_EVERY_S = 0.25
_NICENESS = 5
"""Of the process that judges at once: requests go first, and yet it is waited for."""


class Judgements:
    """Who asks waits for a while; the work goes on without him, and his answer is kept."""

    def __init__(self, database: Database, settings: Settings, live: Live, supervisor: Supervisor) -> None:
        self._database, self._settings, self._live, self._supervisor = database, settings, live, supervisor
        self._jobs, self._evaluations = Jobs(database), Evaluations(database)
        self._evaluator = Evaluator(database, settings)
        self._stop = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At the end, what is being judged goes back to the queue."""
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(
        self, experiment_id: int | None, options: EvaluationOptions, file: ReceivedFile, actor: str, wait_s: float
    ) -> tuple[Standing, bool]:
        """Put a question and wait for its answer, so long; whether it is a new one. The file is taken.

        Raises what judging raised where it failed, NotFound, Conflict, Unavailable.
        """
        wanted = experiment_id if experiment_id is not None else self._active()
        standing, is_new = await asyncio.to_thread(self._evaluator.ask, wanted, options, file, actor)
        is_little = file.size_bytes <= self._settings.evaluate_at_once_bytes
        if is_new and not (is_little and self._begin(standing)):
            self._supervisor.wake()
        standing = await self._wait_for(standing, wait_s, is_little)
        if standing.state == "failed":
            raise _failure(standing)
        return standing, is_new

    def _begin(self, standing: Standing) -> bool:
        """Judge it here, where nothing else is being judged here; whether that is so."""
        job_id = standing.evaluation.job_id
        if self._tasks or job_id is None:
            return False
        task = asyncio.create_task(asyncio.to_thread(self._judge, job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _judge(self, job_id: int) -> None:
        owner, claim = own_name(), None
        with suppress(*CANNOT_WRITE_NOW):  # the database is away, and whoever waits is told
            claim = self._jobs.claim(owner, f"at once at {owner}", job_id=job_id)
        if claim is None:  # a worker was faster, or it failed a moment ago and is not due yet
            self._stop.wait(_LOOK_EVERY_S)
            return
        work = partial(run_evaluation, self._database, self._settings, self._jobs, niceness=_NICENESS)
        settle(self._jobs, Lease(self._jobs, claim, self._stop), work)

    async def _wait_for(self, standing: Standing, wait_s: float, is_little: bool) -> Standing:
        deadline = asyncio.get_running_loop().time() + wait_s
        while not standing.is_over and asyncio.get_running_loop().time() < deadline:
            if is_little and standing.state == "queued":
                self._begin(standing)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(_LOOK_EVERY_S)
            standing = await asyncio.to_thread(self._evaluations.standing, standing.evaluation.id)
            if self._live.is_draining and not is_little:
                break  # a worker has it, who goes on: no reason to hold up the end of the service
        return standing

    def _active(self) -> int:
        experiment_id = self._live.current.experiment_id
        if experiment_id is None:
            raise NotFound("the active model belongs to no experiment of this store: say which by `experiment_id`")
        return experiment_id


def _failure(standing: Standing) -> ServiceError:
    stored = standing.evaluation.report.get("error")
    if stored is None:
        return Unavailable(standing.error or "the evaluation was interrupted: ask again", retry_after_s=5)
    return StoredError.model_validate(stored).as_error()
