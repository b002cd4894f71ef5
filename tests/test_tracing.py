"""Traces: what requests and jobs leave of themselves; a collector holds nobody up, and what is off costs nothing."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ml_service.backend.app import create_app
from ml_service.common.settings import PROJECT, Settings
from ml_service.data.database import Database
from ml_service.data.jobs import Jobs
from ml_service.pipeline.job_outcome import settle
from ml_service.pipeline.lease import Lease
from ml_service.utils import tracing
from ml_service.utils.handing_on import CONTEXT
from ml_service.utils.logs import current_fields, request_id
from ml_service.utils.tracer import Tracer, sending_to
from tests.otlp_receiver import running_collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "wanted"}
SECRET = "zebra crossing"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.trace_with(Tracer("tests", SimpleSpanProcessor(exporter)))
    yield exporter
    tracing.stop_tracing()


@pytest.fixture
def traced(settings: Settings, exporter: InMemorySpanExporter) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        exporter.clear()
        yield client


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_below_the_clients_with_the_engines_own_times_below_it(
    traced: TestClient, exporter: InMemorySpanExporter
) -> None:
    body = {"text": f"def {SECRET}", "max_new_tokens": 5, "temperature": 0.5, "stop": [SECRET], "seed": 7}
    answer = traced.post("/forward", json=body, headers=HEADERS).json()
    spans = by_name(exporter)
    served = spans["POST /forward"]
    assert served.parent is not None and served.context is not None
    assert (f"{served.context.trace_id:032x}", f"{served.parent.span_id:016x}") == (TRACE, PARENT)
    told = dict(served.attributes or {})
    assert told["http.response.status_code"] == 200
    assert told["http.route"] == "/forward"
    assert told["ml_service.request_id"] == "wanted"
    generated = next(span for name, span in spans.items() if name.startswith("text_completion "))
    assert generated.parent is not None and generated.parent.span_id == served.context.span_id
    facts = dict(generated.attributes or {})
    assert facts["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert facts["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert facts["gen_ai.response.finish_reasons"] == (answer["finish_reason"],)
    assert facts["gen_ai.response.model"] == answer["model"]["experiment"]
    assert (facts["gen_ai.request.max_tokens"], facts["gen_ai.request.temperature"]) == (5, 0.5)
    assert [event.name for event in generated.events] == ["gen_ai.first_token"]
    for phase in ("queue", "prefill", "decode"):
        span = spans[phase]
        assert span.parent is not None and generated.context is not None
        assert span.parent.span_id == generated.context.span_id
        ms = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
        assert ms == pytest.approx(answer["timings"][f"{phase}_ms"], abs=0.3)
    assert SECRET not in "".join(span.to_json() for span in spans.values())


def test_texts_are_told_where_that_was_asked_for(settings: Settings) -> None:
    exporter = InMemorySpanExporter()
    tracing.trace_with(Tracer("tests", SimpleSpanProcessor(exporter), with_texts=True))
    with TestClient(create_app(settings)) as client:
        message = [{"role": "user", "content": SECRET}]
        body = {"model": "active", "messages": message, "max_tokens": 3}
        client.post("/v1/chat/completions", json=body).raise_for_status()
    tracing.stop_tracing()
    (chat,) = [span for span in exporter.get_finished_spans() if span.name.startswith("chat ")]
    asked = json.loads(str((chat.attributes or {})["gen_ai.input.messages"]))
    assert SECRET in asked[0]["parts"][0]["content"]


def test_a_stream_several_answers_and_a_refusal_are_told_as_they_were(
    traced: TestClient, exporter: InMemorySpanExporter
) -> None:
    traced.post("/forward", json={"text": "def", "max_new_tokens": 3, "n": 2, "stream": True}).raise_for_status()
    names = [span.name for span in exporter.get_finished_spans()]
    assert names.count("queue") == names.count("decode") == 2
    exporter.clear()
    traced.post("/forward", json={"text": 5})
    (refused,) = exporter.get_finished_spans()
    assert (refused.attributes or {})["http.response.status_code"] == 400
    assert refused.status.is_ok, "a wrong request is no fault of the server"
    exporter.clear()
    traced.get("/health")
    traced.get("/metrics")
    assert not exporter.get_finished_spans(), "what is asked for every few seconds makes no traces"


def test_a_broken_traceparent_begins_a_trace_of_its_own(traced: TestClient, exporter: InMemorySpanExporter) -> None:
    for given in ("nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"):
        exporter.clear()
        assert traced.get("/metadata", headers={"traceparent": given}).status_code == 200
        assert by_name(exporter)["GET /metadata"].parent is None


def test_a_job_goes_on_with_the_request_and_the_trace_that_wished_for_it(
    database: Database, exporter: InMemorySpanExporter
) -> None:
    jobs = Jobs(database)
    token = request_id.set("wish-1")
    with tracing.span("POST /wish"), database.writing() as session:
        jobs.queue(session, "upkeep", payload={"own": 1})
    request_id.reset(token)
    claim = jobs.claim("tests:1", "here")
    assert claim is not None and claim.payload["own"] == 1
    assert claim.payload[CONTEXT]["request_id"] == "wish-1"

    def work(lease: Lease) -> None:
        lease.persist(lambda session: jobs.end(session, lease.claim, "succeeded"))

    assert settle(jobs, Lease(jobs, claim, threading.Event()), work) == "succeeded"
    spans = by_name(exporter)
    wish, queued, done = spans["POST /wish"], spans["queue upkeep"], spans["process upkeep"]
    assert queued.context is not None and done.context is not None and wish.context is not None
    assert done.parent is not None and done.parent.span_id == queued.context.span_id
    assert done.context.trace_id == wish.context.trace_id
    assert (done.attributes or {})["messaging.message.id"] == str(claim.job_id)
    assert any(name.startswith("write ") for name in spans), "the database's part is told, too"


@pytest.mark.usefixtures("exporter")
def test_log_lines_name_the_trace() -> None:
    with tracing.span("one") as made:
        assert made is not None
        assert current_fields()["trace_id"] == f"{made.get_span_context().trace_id:032x}"
    assert "trace_id" not in current_fields()


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    code = (
        "_OF_THE_EXTRA = 'opentelemetry.sdk', 'opentelemetry.exporter', 'requests'\n"
        "import sys, ml_service.cli, ml_service.backend.app, ml_service.pipeline.worker\n"
        "from ml_service.utils.tracing import span, start_tracing, tracer\n"
        "start_tracing(None, 'server')\n"
        "with span('x') as made: assert made is None\n"
        "assert tracer() is None\n"
        "print([name for name in sys.modules if name.startswith(_OF_THE_EXTRA)])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_without_the_extra_the_start_is_refused_in_a_sentence(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        f"sys.argv = ['ml-service', 'serve', '--store', {str(tmp_path)!r}, '--bundle', {str(bundle)!r}]\n"
        "from ml_service.cli import main; main()"
    )
    environment = {"ML_SERVICE_OTLP_ENDPOINT": "http://127.0.0.1:9", "PATH": ""}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'ml-service[tracing]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_collector_gets_spans_and_one_that_is_away_or_silent_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_collector() as collector:
        tracing.start_tracing(collector.address, "tests")
        with tracing.span("sent", ml_service__number=1):
            pass
        tracing.stop_tracing()
        (sent,) = collector.spans
        assert (sent.process, sent.name, sent.attributes) == ("tests", "sent", {"ml_service.number": 1})
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)  # it takes connections and never answers
        tracing.start_tracing(f"http://127.0.0.1:{silent.getsockname()[1]}", "tests")
        for _ in range(5_000):  # more than the queue holds
            with tracing.span("lost"):
                pass
        started = time.monotonic()
        tracing.stop_tracing()
        assert time.monotonic() - started < 5, "two seconds, and room for a busy machine"
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_that_a_collector_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    processor = sending_to(address)
    tracing.trace_with(Tracer("tests", processor))
    with caplog.at_level(logging.WARNING, "ml_service"):
        for _ in range(2):
            with tracing.span("lost"):
                pass
            processor._batch_processor._exporter._exporter._client._timeout = 0.05  # type: ignore[attr-defined]
            processor.force_flush()
        tracing.stop_tracing()
    assert [record.getMessage() for record in caplog.records] == ["tracing.collector_away"]
