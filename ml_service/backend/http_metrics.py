"""`http_requests_*`: prometheus-fastapi-instrumentator's, which counts each request without looking all up anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from starlette.requests import Request

from ml_service.backend.dependencies import needs
from ml_service.backend.page_proxy import PATH as PAGE_PATH
from ml_service.utils.telemetry import Telemetry

_MANY_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
_FEW_BOUNDS_S = (0.1, 0.5, 1)


class _Counts:
    """The instrumentator's default metrics, by their names; what has these labels is looked up once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def summary(name: str, what: str) -> Summary:
            return Summary(name, what, ["handler"], registry=registry)

        def seconds(name: str, what: str, labels: Sequence[str], bounds: Sequence[float]) -> Histogram:
            return Histogram(name, what, labels, buckets=bounds, registry=registry)

        self._requests = Counter(
            "http_requests_total", "Requests by method, status and handler.", ["method", "status", "handler"],
            registry=registry,
        )  # fmt: skip
        self._received = summary("http_request_size_bytes", "Declared length of requests by handler.")
        self._sent = summary("http_response_size_bytes", "Declared length of answers by handler.")
        self._seconds = seconds("http_request_duration_highr_seconds", "Latency, many buckets.", (), _MANY_BOUNDS_S)
        self._seconds_by_handler = seconds(
            "http_request_duration_seconds", "Latency by method and handler, few buckets.", ["method", "handler"],
            _FEW_BOUNDS_S,
        )  # fmt: skip
        self._children: dict[tuple[str, str, str], tuple[Counter, Summary, Summary, Histogram]] = {}

    def __call__(self, info: Info) -> None:
        """Count a request that is over."""
        method, status, handler = info.method, info.modified_status, info.modified_handler
        children = self._children.get((method, status, handler))
        if children is None:
            children = self._children[method, status, handler] = (
                self._requests.labels(method, status, handler), self._received.labels(handler),
                self._sent.labels(handler), self._seconds_by_handler.labels(method, handler),
            )  # fmt: skip
        requests, received, sent, seconds_by_handler = children
        requests.inc()
        received.observe(_length(info.request.scope["headers"]))
        sent.observe(_length(info.response.raw_headers) if info.response is not None else 0)
        self._seconds.observe(info.modified_duration)
        seconds_by_handler.observe(info.modified_duration)


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """As declared; 0 where it is not."""
    return next((int(value) for name, value in headers if name == b"content-length" and value.isdigit()), 0)


class HttpMetrics(PrometheusInstrumentatorMiddleware):
    """Remembers the paths that are their own pattern, `/forward`: there are as many of them as such routes."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plain: set[str] = set()

    def _get_handler(self, request: Request) -> tuple[str, bool]:
        path = request.scope["path"]
        if path in self._plain:
            return path, True
        handler, is_pattern = super()._get_handler(request)
        if is_pattern and handler == path:
            self._plain.add(path)
        return handler, is_pattern


def measure(app: FastAPI, telemetry: Telemetry) -> None:
    """Count the app's requests, and give it `/metrics`."""
    app.add_middleware(
        HttpMetrics,
        instrumentations=[_Counts(telemetry.registry)],
        should_group_status_codes=False,
        excluded_handlers=["^/metrics$", "^/docs/static", f"^{PAGE_PATH}"],
    )
    Instrumentator(registry=telemetry.registry).expose(
        app, tags=["operations"], dependencies=[needs()], response_class=PlainTextResponse
    )
