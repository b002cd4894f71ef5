"""Pure ASGI middleware that tells of requests: a line in the log when one is over, a span in a trace."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_service.common.settings import Settings
from ml_service.utils.costs import Costs, costs
from ml_service.utils.logs import EventLogger, in_json, request_id
from ml_service.utils.tracing import PARENT, STATE, tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = EventLogger("http")
_QUIET = ("/health", "/metrics", "/docs", "/openapi.json", "/ui")
"""Asked by machines every few seconds, or by a browser by the dozen: told only where they fail."""
_FAULT = 500
_METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT TRACE".split())


def access_log_share(settings: Settings) -> float:
    """Of how many requests a line is written."""
    default = 1.0 if in_json() or settings.log_format == "json" else 0.0
    return default if settings.access_log is None else settings.access_log


class RequestLines:
    """Writes `request.done`: always where the service failed, else of so large a share of the requests.

    Neither query nor body nor key stands in it.
    """

    def __init__(self, app: ASGIApp, share: float) -> None:
        self.app, self.share = app, share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        cost = Costs()

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = costs.set(cost)
        try:
            await self.app(scope, receive, send_watched)
        finally:
            costs.reset(token)
            if status >= _FAULT or (self._is_told() and not scope["path"].startswith(_QUIET)):
                ms = round((time.perf_counter() - started) * 1e3, 3)
                log.info(
                    "request.done",
                    method=scope["method"],
                    route=route_of(scope),
                    status=status,
                    ms=ms,
                    **cost.fields(),
                )

    def _is_told(self) -> bool:
        return self.share >= 1 or random.random() < self.share


class Traced:
    """Makes a server span of each request, by OpenTelemetry's HTTP conventions, below the client's `traceparent`.

    What is asked for every few seconds, and the page, make none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        making = tracer()
        if making is None or scope["type"] != "http" or scope["path"].startswith(_QUIET):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        handed = {name: headers[name] for name in (PARENT, STATE) if name in headers}
        attributes = _attributes(scope, headers)
        with making.span(attributes["http.request.method"], "server", handed, attributes) as span:

            async def send_watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _tell_status(span, message["status"])
                await send(message)

            try:
                await self.app(scope, receive, send_watched)
            finally:
                if (route := route_of(scope)) is not None:
                    span.update_name(f"{attributes['http.request.method']} {route}")
                    span.set_attribute("http.route", route)


def route_of(scope: Scope) -> str | None:
    """`/experiments/{experiment_id}`: the route's pattern; None where no route took it."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None


def _attributes(scope: Scope, headers: Mapping[str, str]) -> dict[str, Any]:
    """The query is left out: who must not send a secret there does."""
    method = scope["method"]
    host, port = scope.get("server") or (None, None)
    known = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "server.address": host,
        "server.port": port,
        "client.address": (scope.get("client") or (None,))[0],
        "network.protocol.version": scope.get("http_version"),
        "user_agent.original": headers.get("user-agent"),
        "ml_service.request_id": request_id.get(),
    }
    return {name: value for name, value in known.items() if value is not None}


def _tell_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= _FAULT:
        from opentelemetry.trace import StatusCode  # where there are no traces it may not be installed

        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
