"""uvicorn, with a drain: SIGTERM lets running requests finish, answers new ones 503, and ends with code 0."""

from __future__ import annotations

import asyncio
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ml_service.common.errors import BadRequest
from ml_service.common.settings import Settings
from ml_service.inference.handles import Live
from ml_service.utils.logs import EventLogger

log = EventLogger("server")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_POLL_S = 0.05


class DrainingServer(uvicorn.Server):
    """The first signal drains, the second one ends at once."""

    def __init__(self, config: uvicorn.Config, live: Live, drain_timeout_s: float) -> None:
        super().__init__(config)
        self._live, self._drain_timeout_s = live, drain_timeout_s
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start, and remember the loop for the signal handler."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came; called between two bytecodes of whatever runs."""
        if self._drain is not None or self._loop is None or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._drain is None:
            self._live.drain()
            self._drain = asyncio.create_task(self._finish_running())

    async def _finish_running(self) -> None:
        log.info("server.draining", running=self._live.busy)
        deadline = time.monotonic() + self._drain_timeout_s
        # New clients must be told 503 rather than find the door closed, so the sockets stay open till the end.
        while self._live.busy and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        log.info("server.drained", left=self._live.busy)
        self.should_exit = True


def serve(app: FastAPI, settings: Settings, live: Live) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
        timeout_graceful_shutdown=5,
        server_header=False,
        ws="websockets-sansio",  # the other one is deprecated
        ws_per_message_deflate=False,  # only the page has one, and says little
    )
    DrainingServer(config, live, settings.drain_timeout_s).run()


def check_exposure(settings: Settings) -> None:
    """Raises BadRequest where the service would listen beyond this machine without a key."""
    if settings.host in _LOOPBACK or settings.api_key is not None or settings.allow_open_network:
        return
    raise BadRequest(
        f"{settings.host} is reachable from other machines and there is no key: set ML_SERVICE_API_KEY, "
        "or say ML_SERVICE_ALLOW_OPEN_NETWORK=true if that is meant"
    )
