"""The web page in a process of its own: started by the first who looks, ended when nobody has for a while."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from ml_service.common.errors import Unavailable
from ml_service.common.settings import PREFIX, Settings
from ml_service.utils.handing_on import for_child
from ml_service.utils.logs import EventLogger

log = EventLogger("page")
MODULE = "ml_service.frontend.process"
_WAITING_CONNECTIONS = 128


class PageProcess:
    """What the page takes, of memory and of the interpreter's lock, it takes from another process than answers do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._folder: Path | None = None
        self._visits = 0
        self._idle_end: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def pid(self) -> int | None:
        """The process's id, where there is one."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the service lives; part of the app's lifespan."""
        try:
            yield
        finally:
            self._is_closing = True
            await self._end()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def visited(self) -> Iterator[None]:
        """It does not end while the block runs."""
        self._visits += 1
        if self._idle_end is not None:
            self._idle_end.cancel()
        try:
            yield
        finally:
            self._visits -= 1
            if self._visits == 0 and not self._is_closing:
                self._idle_end = asyncio.get_running_loop().call_later(self._settings.page_idle_s, self._end_idle)

    async def address(self, backend: str) -> str:
        """The Unix socket on which it listens, started where there is none; `backend` is what it shows.

        Whoever connects before it is ready waits in the socket's queue. Raises Unavailable where it cannot be started.
        """
        async with self._turn:
            if self._is_closing:
                raise Unavailable("the service is shutting down", retry_after_s=5)
            if self.pid is None:
                await self._end()
                await self._start(backend)
            assert self._folder is not None, "it has been started"
            return str(self._folder / "page.sock")

    async def _start(self, backend: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ml-service-page-"))  # nobody else may look into it
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._folder / "page.sock"))
            listener.listen(_WAITING_CONNECTIONS)
            grafana = [self._settings.grafana_url] if self._settings.grafana_url else []
            # Standard input is the life line of `end_with_parent`. A process group of its own for Ctrl-C.
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", MODULE, str(listener.fileno()), backend, *grafana),
                    stdin=PIPE,
                    stdout=DEVNULL,
                    pass_fds=[listener.fileno()],
                    env=_without_ours() | for_child("page", of_this_request=False),
                    preexec_fn=os.setpgrp,
                )
            except OSError as error:
                raise Unavailable("the page cannot be started", retry_after_s=30) from error
        log.info("page.started", child=self._process.pid)

    def _end_idle(self) -> None:
        if self._visits == 0:
            ending = asyncio.create_task(self._end_in_turn())
            self._tasks.add(ending)
            ending.add_done_callback(self._tasks.discard)

    async def _end_in_turn(self) -> None:
        async with self._turn:
            if self._visits == 0:
                await self._end()

    async def _end(self) -> None:
        if self._idle_end is not None:
            self._idle_end.cancel()
        process, self._process, folder, self._folder = self._process, None, self._folder, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            log.info("page.ended", code=await process.wait())
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _without_ours() -> dict[str, str]:
    """The page needs none of the settings, and among them are secrets."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
