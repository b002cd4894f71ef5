"""Requests under way, whatever they ask for: counted; once the service drains the next ones are refused with 503."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from ml_service.backend.errors import error_response, problem_of
from ml_service.common.errors import Unavailable
from ml_service.inference.handles import Live

_ALWAYS_ANSWERED = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
_RETRY_S = 5.0


class InFlight:
    """How many there are; those that look after the service itself do not count, and are answered to the end."""

    def __init__(self) -> None:
        self.count = 0


class CountRequests:
    """Keeps the count. A web socket is a page that is looked at: it does not hold up an end, nor is it told of it."""

    def __init__(self, app: ASGIApp, in_flight: InFlight, live: Live) -> None:
        self.app, self._in_flight, self._live = app, in_flight, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS_ANSWERED:
            await self.app(scope, receive, send)
            return
        if self._live.is_draining:
            refused = Unavailable("the service is shutting down", retry_after_s=_RETRY_S)
            await error_response(scope["path"], *problem_of(refused))(scope, receive, send)
            return
        self._in_flight.count += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._in_flight.count -= 1
