"""What is told of requests: a line in the log when one is over, a span in a trace."""

from __future__ import annotations

import random
import time

from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_service.common.settings import Settings
from ml_service.utils.costs import Costs, costs
from ml_service.utils.logs import EventLogger, in_json
from ml_service.utils.tracing import tracer

log = EventLogger("http")
_QUIET = ("/health", "/metrics", "/docs", "/openapi.json", "/ui")
"""Asked by machines every few seconds, or by a browser by the dozen: told only where they fail."""
_FAULT = 500


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


def server_spans() -> TelemetryConfig:
    """FastAPI's own server spans, where there are traces; below the client's `traceparent`, by OpenTelemetry's names.

    What is asked for every few seconds, and the page, make none. Metrics are Prometheus's here.
    """
    making = tracer()
    return {
        "tracing": making is not None,
        "tracer_provider": making.provider if making is not None else None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope["path"].startswith(_QUIET),
    }


def route_of(scope: Scope) -> str | None:
    """`/experiments/{experiment_id}`: the route's pattern; None where no route took it."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None
