"""uvicorn, with a drain: SIGTERM lets running requests finish, answers new ones 503, and ends with code 0."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ml_service.backend.in_flight import InFlight
from ml_service.backend.slow_clients import Patience, WatchedProtocol, cut_off_slow_clients
from ml_service.common.settings import Settings
from ml_service.inference.handles import Live
from ml_service.utils.logs import EventLogger

log = EventLogger("server")
_POLL_S = 0.05
_KEEP_ALIVE_S = 75
"""Longer than balancers and pools of clients keep a connection that idles, which is 60 s at most by default: they send
on what they think is open, and do not send a POST again where it was just closed."""
_LOOK_EVERY_TICKS, _LONGEST_ELAPSED_S = 10, 2.0


class DrainingServer(uvicorn.Server):
    """The first signal drains, the second one ends at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        live: Live,
        in_flight: InFlight,
        end_worker: Callable[[], None],
        drain_timeout_s: float,
    ) -> None:
        """`end_worker` is called when a signal comes: a training writes its checkpoint while requests are finished."""
        super().__init__(config)
        self._live, self._in_flight, self._end_worker = live, in_flight, end_worker
        self._drain_timeout_s = drain_timeout_s
        self._is_told = False
        self._patience, self._looked_at = Patience(), time.monotonic()
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start, and remember the loop for the signal handler."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % _LOOK_EVERY_TICKS == 0:
            moment, before = time.monotonic(), self._looked_at
            self._looked_at = moment
            # A loop that stood still has not listened: that is not the clients' doing.
            elapsed_s = min(moment - before, _LONGEST_ELAPSED_S)
            cut_off_slow_clients(self.server_state.connections, elapsed_s, self._patience)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came; called between two bytecodes of whatever runs."""
        if self._is_told:
            self._end_worker()
            os._exit(128 + sig)  # in order would be to wait for what just now is not waited for
        self._is_told = True
        if self._loop is None or not self.started:
            self.should_exit = True  # when it has started: half of it could not be ended in order
            return
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._live.drain()
        self._end_worker()
        self._drain = asyncio.create_task(self._finish_running())

    async def _finish_running(self) -> None:
        log.info("server.draining", running=self._in_flight.count)
        deadline = time.monotonic() + self._drain_timeout_s
        # New clients must be told 503 rather than find the door closed, so the sockets stay open till the end.
        while self._in_flight.count and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        log.info("server.drained", left=self._in_flight.count)
        self.should_exit = True


def serve(app: FastAPI, settings: Settings, live: Live) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # `configure_logs` has said how its lines look
        access_log=False,  # `RequestLines` says more
        timeout_graceful_shutdown=5,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
        http=WatchedProtocol,
        ws="websockets-sansio",  # the other one is deprecated
        ws_per_message_deflate=False,  # only the page has one, and says little
    )
    end_worker = app.state.supervisor.end_soon
    DrainingServer(config, live, app.state.in_flight, end_worker, settings.drain_timeout_s).run()
