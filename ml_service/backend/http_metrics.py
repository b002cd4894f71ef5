"""`http_requests_*`: prometheus-fastapi-instrumentator's, without asking every route for its pattern each time."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from starlette.requests import Request

from ml_service.backend.dependencies import needs
from ml_service.backend.page_proxy import PATH as PAGE_PATH
from ml_service.utils.telemetry import Telemetry


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
    excluded = [re.compile(path) for path in ("^/metrics$", "^/docs/static", f"^{PAGE_PATH}")]
    app.add_middleware(
        HttpMetrics, registry=telemetry.registry, should_group_status_codes=False, excluded_handlers=excluded
    )
    Instrumentator(registry=telemetry.registry).expose(
        app, tags=["operations"], dependencies=[needs()], response_class=PlainTextResponse
    )
