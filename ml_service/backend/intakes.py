"""Intakes: each in a process of its own, one at a time; it goes on when the client who asked for it has left."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ml_service.backend.uploads import IncomingUpload
from ml_service.common.errors import ServiceError, Unavailable
from ml_service.common.settings import PREFIX, Settings
from ml_service.data.batch_report import StoredError
from ml_service.data.batches import UNFINISHED, Batches, Received
from ml_service.data.database import Database
from ml_service.data.datasets import AddedBatch, Datasets
from ml_service.data.leftovers import sweep
from ml_service.utils.handing_on import for_child
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry
from ml_service.utils.tracing import detail

log = EventLogger("intakes")
_SWEEP_EVERY_S = 20.0
COMMAND = (sys.executable, "-m", "ml_service.pipeline.intake_process")


class Intakes:
    """Takes uploads in. An intake reads untrusted files with large libraries: nothing of it happens in the server."""

    def __init__(self, settings: Settings, database: Database, telemetry: Telemetry) -> None:
        self._settings, self._database, self._telemetry = settings, database, telemetry
        self._batches = Batches(database, settings.store)
        self._datasets = Datasets(database, settings.store)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[AddedBatch]] = set()
        self._process: Process | None = None
        self._is_closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Remove what a server that was killed left behind; at the end, end what runs: nothing of it is kept."""
        with suppress(ServiceError, OSError):  # it is done again; a full disk must not keep a server from starting
            await asyncio.to_thread(self._sweep)
        sweeper = asyncio.create_task(self._sweep_now_and_then())
        try:
            yield
        finally:
            self._is_closing = True
            sweeper.cancel()
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _sweep(self) -> None:
        if swept := sweep(self._database, self._settings.store):
            log.warning("intake.swept", interrupted=swept)

    async def _sweep_now_and_then(self) -> None:
        """An intake may outlive its server by a moment, and so the look of the next one at its start."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            with suppress(ServiceError, OSError):  # the database may be away, the disk full
                await asyncio.to_thread(self._sweep)

    async def add(self, incoming: IncomingUpload, actor: str, key: str | None) -> AddedBatch:
        """Take an upload in and remove it from its folder; to the end, even where this is cancelled.

        Raises BadRequest, Conflict, TooLarge, InsufficientStorage or Unavailable.
        """
        task = asyncio.create_task(self._add(incoming, actor, key))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def _add(self, incoming: IncomingUpload, actor: str, key: str | None) -> AddedBatch:
        failure = None
        try:
            upload = await asyncio.to_thread(incoming.finish)
            received = await asyncio.to_thread(self._batches.receive, upload.described(actor, key))
            if received.batch.state in UNFINISHED:
                async with self._turn:
                    failure = await self._run(received.batch.id)
        finally:
            await asyncio.to_thread(incoming.remove)
        return await asyncio.to_thread(self._outcome_of, received, failure)

    async def _run(self, batch_id: int) -> StoredError | None:
        """Until the process has ended; why it could not do its work, if it lived to say so."""
        if self._is_closing:
            return StoredError(kind=Unavailable.__name__, message="the service is shutting down")
        # Its standard input stays open as long as we live: it ends when we do. A process group of its own for Ctrl-C;
        # a session of its own would be scheduled as a group (`lib/processes.py`).
        with detail("take in", ml_service__batch=batch_id):
            self._process = process = await asyncio.create_subprocess_exec(
                *COMMAND, str(batch_id), stdin=PIPE, stdout=PIPE, env=self._environment(), preexec_fn=os.setpgrp
            )
            assert process.stdout is not None, "it was asked for"
            answer = await process.stdout.read()
            code = await process.wait()
        self._process = None
        if code != 0:
            log.warning("intake.died", batch=batch_id, code=code)
            return None
        error = json.loads(answer)["error"]
        return StoredError.model_validate(error) if error is not None else None

    def _environment(self) -> dict[str, str]:
        own = {
            f"{PREFIX}STORE": str(self._settings.store.resolve()),
            f"{PREFIX}DATABASE_URL": self._settings.database_address or "",
            "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own allocator keeps 45 MiB more
        }
        return os.environ | own | for_child("intake")

    def _outcome_of(self, received: Received, failure: StoredError | None) -> AddedBatch:
        batch = self._batches.get(received.batch.id)
        if batch.state in UNFINISHED:  # nobody could write down what became of it: it ends as one of a killed server
            sweep(self._database, self._settings.store)
            batch = self._batches.get(batch.id)
        if failure is not None:
            raise failure.as_error()
        if batch.state in UNFINISHED:
            raise Unavailable("another request is adding the same data now", retry_after_s=5)
        added = self._datasets.outcome_of(batch, was_there=not received.is_new)
        if received.is_new:
            self._tell_of(added)
        return added

    def _tell_of(self, added: AddedBatch) -> None:
        report, counts = added.report, self._telemetry.data_records
        counts.labels("accepted").inc(report.accepted)
        counts.labels("duplicate").inc(report.duplicate + report.near_duplicate)
        counts.labels("rejected").inc(report.rejected)
        log.info("intake.done", batch=added.batch.id, dataset_version=report.version, accepted=report.accepted)

    def _forget(self, task: asyncio.Task[AddedBatch]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("intake.failed", error=str(error))
