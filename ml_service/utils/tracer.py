"""The spans of one process, made with OpenTelemetry's SDK; imported only where traces are wanted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lib.processes import own_name
from ml_service.utils.logs import SERVICE, EventLogger

log = EventLogger("tracing")
_PATH = "/v1/traces"
_AT_THE_END_S = 2.0
_KINDS = {
    "internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT, "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}  # fmt: skip
_SILENT = ("opentelemetry.exporter", "opentelemetry.sdk")
_w3c = TraceContextTextMapPropagator()


class Tracer:
    """Makes spans and hands them to a processor; nobody ever waits for a collector."""

    def __init__(
        self, role: str, processor: SpanProcessor, *, with_texts: bool = False, endpoint: str | None = None
    ) -> None:
        """`with_texts` also tells prompts and answers. Sampling, limits and resource follow OTEL_* variables."""
        self.with_texts, self.endpoint = with_texts, endpoint
        self._processor = processor
        # The provider stays ours: what else in the process uses OpenTelemetry is not our business.
        self.provider = TracerProvider(resource=_resource(role), shutdown_on_exit=False)
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer(SERVICE, version(SERVICE))

    @contextmanager
    def span(
        self, name: str, kind: str, handed: Mapping[str, str] | None, attributes: Mapping[str, Any]
    ) -> Iterator[Span]:
        """A span around a block, the current one inside of it; `handed` names the one above where it is not."""
        opened = self._tracer.start_span(name, self.above(handed), _KINDS[kind], attributes)
        with trace.use_span(opened, record_exception=False, set_status_on_exception=False):
            try:
                yield opened
            except BaseException as error:
                fail(opened, error)
                raise
            finally:
                opened.end()

    def begin(self, name: str, kind: str, handed: Mapping[str, str] | None = None, **more: Any) -> Span:
        """A span that its maker ends; it is not the current one. `more` as of OpenTelemetry's `start_span`."""
        return self._tracer.start_span(name, self.above(handed), _KINDS[kind], **more)

    def add(self, name: str, above: Span, start_ns: int, end_ns: int, attributes: Mapping[str, Any]) -> None:
        """A span that is over already, below another one."""
        context = trace.set_span_in_context(above)
        made = self._tracer.start_span(name, context, attributes=attributes, start_time=start_ns)
        made.end(max(end_ns, start_ns))

    def above(self, handed: Mapping[str, str] | None) -> Context | None:
        """What a span stands below: None for the current span; broken headers are as none."""
        return _w3c.extract(handed, Context()) if handed is not None else None

    def is_recording(self) -> bool:
        """Whether there is a span in this context, and somebody wants to know of it."""
        return trace.get_current_span().is_recording()

    def note(self, name: str, value: str) -> None:
        """An attribute of the current span."""
        trace.get_current_span().set_attribute(name, value)

    def carried(self) -> dict[str, str]:
        """The current span as W3C headers; empty where there is none."""
        headers: dict[str, str] = {}
        _w3c.inject(headers)
        return headers

    def ids(self) -> dict[str, str]:
        """Of the current span, for log lines; empty where there is none."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def stop(self) -> None:
        """Send what is left. A collector that does not answer costs two seconds and then what it would have got."""
        ending = threading.Thread(target=self.provider.shutdown, name="tracing-ends", daemon=True)
        ending.start()
        ending.join(_AT_THE_END_S)


def fail(span: Span, error: BaseException) -> None:
    """It ended with an error: its kind, not its words, which may be a client's."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(StatusCode.ERROR)


def sending_to(endpoint: str) -> SpanProcessor:
    """Send spans in batches, in a thread: when the queue is full the oldest are dropped.

    `endpoint` is a collector's address, `http://HOST:4318`; headers, certificates, compression and time-outs are those
    of OTEL_EXPORTER_OTLP_*, the queue is that of OTEL_BSP_*.
    """
    address = endpoint if endpoint.rstrip("/").endswith(_PATH) else endpoint.rstrip("/") + _PATH
    for name in _SILENT:  # they tell every try; we tell the first that fails and the first that does not
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return BatchSpanProcessor(_Telling(OTLPSpanExporter(endpoint=address), address))


class _Telling(SpanExporter):
    """Says once that the collector is away, and once that it is back."""

    def __init__(self, exporter: SpanExporter, address: str) -> None:
        self._exporter, self._address = exporter, address
        self._is_away, self._lost = False, 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, or lose them."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._is_away:
                log.info("tracing.collector_back", address=self._address, lost_spans=self._lost)
            self._is_away, self._lost = False, 0
            return result
        self._lost += len(spans)
        if not self._is_away:
            self._is_away = True
            log.warning("tracing.collector_away", address=self._address)
        return result

    def shutdown(self) -> None:
        """Give up what waits for another try."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """There is nothing held back here."""
        return self._exporter.force_flush(timeout_millis)


def _resource(role: str) -> Resource:
    """What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say goes before what we know ourselves."""
    own: dict[str, str | int] = {
        "service.name": SERVICE,
        "service.version": version(SERVICE),
        "service.instance.id": own_name(),
        "process.pid": os.getpid(),
        "ml_service.process": role,
    }
    return Resource.create({**own}).merge(OTELResourceDetector().detect())
