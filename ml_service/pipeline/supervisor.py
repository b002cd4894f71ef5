"""The embedded worker: a process that the server starts where there is work, and ends with itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ml_service.common.errors import ServiceError
from ml_service.common.settings import PREFIX, Settings
from ml_service.data.jobs import Jobs
from ml_service.pipeline.retention import RETENTION
from ml_service.utils.logs import EventLogger

log = EventLogger("worker")
_LOOK_EVERY_S = 2.0
_IDLE_S = 30.0
_LONGEST_PAUSE_S = 60.0
_GRACE_S = 15.0
"""What a worker needs to end beyond the time that its training has for a checkpoint."""
_A_DAY_S = 86_400.0
_GOOD_END = 0


class Supervisor:
    """Starts a worker when jobs wait and none runs; one that breaks at once is started again ever more slowly."""

    def __init__(self, jobs: Jobs, settings: Settings) -> None:
        self._jobs, self._settings = jobs, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._wake = asyncio.Event()
        self._cleaned = time.monotonic()
        self._pause_s = _LOOK_EVERY_S
        self._is_ending = False
        self._asked: subprocess.Popen[bytes] | None = None

    def end_soon(self) -> None:
        """Ask the worker to end and start no other one; returns at once, and may be called from a signal handler."""
        self._is_ending = True
        self._asked = process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)

    def wake(self) -> None:
        """There is a new job: look at once."""
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Supervise inside of the block, where the settings say so; the worker ends with it."""
        if self._settings.worker == "separate":
            yield
            return
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await self._stop()

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except ServiceError as error:  # the database may be away: look again
                log.warning("worker.unknown", reason=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause_s)
            self._wake.clear()

    def _wish_for_retention(self) -> None:
        """Once a day, whoever of the replicas comes first."""
        if time.monotonic() - self._cleaned > _A_DAY_S:
            self._jobs.queue_once(RETENTION, _A_DAY_S)
            self._cleaned = time.monotonic()

    async def _stop(self) -> None:
        """Ask the worker to end and wait for it: a training writes its checkpoint first."""
        self._is_ending = True
        if self._process is None or self._process.poll() is not None:
            return
        if self._asked is not self._process:  # a second signal would end it at once, without its checkpoint
            self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, self._settings.drain_timeout_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    async def _look(self) -> None:
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            self._pause_s = _LOOK_EVERY_S if code == _GOOD_END else min(2 * self._pause_s, _LONGEST_PAUSE_S)
            if code != _GOOD_END:
                log.warning("worker.died", code=code, again_in_s=self._pause_s)
                return
        if self._is_ending:
            return
        await asyncio.to_thread(self._wish_for_retention)
        if await asyncio.to_thread(self._jobs.wait) and not self._is_ending:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ml_service.cli", "worker", "--until-idle", str(_IDLE_S)],
                env=_environment(self._settings),
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is the server's to pass on; see `stage_process` for why no session
            )
            log.info("worker.process", child=self._process.pid)


def _environment(settings: Settings) -> dict[str, str]:
    """The server's own settings, those from its command line too."""
    variables = {f"{PREFIX}STORE": str(settings.store), f"{PREFIX}LOG_FORMAT": settings.log_format}
    if settings.database_address is not None:
        variables[f"{PREFIX}DATABASE_URL"] = settings.database_address
    return os.environ | variables
