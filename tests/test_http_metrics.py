"""Requests counted by hand are what the instrumentator itself counts, whatever comes."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator

from ml_service.backend.http_metrics import HttpMetrics, _Counts


def test_the_figures_are_the_instrumentators() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    app = FastAPI()

    @app.post("/forward")
    def forward(body: dict[str, int]) -> dict[str, int]:
        return body

    @app.get("/things/{number}")
    def thing(number: int) -> int:
        return number

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]))

    app.add_middleware(HttpMetrics, instrumentations=[_Counts(ours)], should_group_status_codes=False)
    Instrumentator(registry=theirs, should_group_status_codes=False).instrument(app)
    with TestClient(app) as client:
        for _ in range(2):
            for body in ({"a": 1}, {"a": "text"}, []):
                client.post("/forward", json=body)
            for path in ("/forward", "/things/1", "/things/2", "/things/x", "/stream", "/nothing", "/other"):
                client.get(path)
            client.put("/forward")
    assert figures(ours) == figures(theirs)
    assert figures(ours)[("http_requests_total", ("/things/{number}", "GET", "200"))] == 4


def figures(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and labels; but for how long it took, and when it began to count."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith(("_created", "_seconds_sum"))
    }
