"""Traces of what happens here: the door to OpenTelemetry, of which nothing is imported before `start_tracing`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ml_service.utils.logs import SERVICE, add_trace_ids

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ml_service.utils.tracer import Tracer

Kind = Literal["internal", "server", "client", "producer", "consumer"]
PARENT = "traceparent"
"""The W3C header, and the key under which a wish carries its trace."""
STATE = "tracestate"


class NotInstalled(ValueError):
    """Traces were asked for and the libraries are missing."""


class _Process:
    tracer: Tracer | None = None


_process = _Process()


def start_tracing(endpoint: str | None, role: str, *, with_texts: bool = False) -> None:
    """Send spans to a collector (OTLP over HTTP) from now on; does nothing without an endpoint.

    Raises NotInstalled in words where the extra `tracing` is not there.
    """
    if endpoint is None:
        return
    try:
        from ml_service.utils.tracer import Tracer, sending_to
    except ImportError as error:
        raise NotInstalled(
            f"ML_SERVICE_OTLP_ENDPOINT asks for traces and {error.name or 'opentelemetry'} is not installed: "
            "pip install 'ml-service[tracing]', or unset it"
        ) from error
    stop_tracing()
    trace_with(Tracer(role, sending_to(endpoint), with_texts=with_texts, endpoint=endpoint))


def trace_with(tracer: Tracer | None) -> None:
    """Let this one make the spans of the process; None makes none."""
    _process.tracer = tracer
    add_trace_ids(tracer.ids if tracer is not None else None)


def stop_tracing() -> None:
    """Send what is left, for two seconds at most; call it before the process ends."""
    tracer = _process.tracer
    trace_with(None)
    if tracer is not None:
        tracer.stop()


def tracer() -> Tracer | None:
    """Who makes the spans; None where there are none, which is all that a request pays then."""
    return _process.tracer


@contextmanager
def span(
    name: str, kind: Kind = "internal", handed: Mapping[str, str] | None = None, **attributes: Any
) -> Iterator[Span | None]:
    """A span around a block, below the current one or what was `handed` on; nothing where there are no traces.

    In attributes' names two underscores stand for a dot; None leaves one out. An exception marks the span as failed.
    """
    if _process.tracer is None:
        yield None
        return
    with _process.tracer.span(name, kind, handed, _named(attributes)) as opened:
        yield opened


@contextmanager
def detail(name: str, kind: Kind = "internal", **attributes: Any) -> Iterator[None]:
    """The same where there is a span around it already: what would make no trace of its own."""
    if _process.tracer is None or not _process.tracer.is_recording():
        yield
        return
    with _process.tracer.span(name, kind, None, _named(attributes)):
        yield


def carried() -> dict[str, str]:
    """The current span as W3C headers, for a wish or a process that goes on with it; empty where there is none."""
    return _process.tracer.carried() if _process.tracer is not None else {}


def messaging(queue: str, operation: str, kind: Literal["send", "process"]) -> dict[str, str]:
    """Attributes of a queued wish, by OpenTelemetry's messaging conventions, as `span` takes them."""
    return {
        "messaging__system": SERVICE, "messaging__destination__name": queue,
        "messaging__operation__name": operation, "messaging__operation__type": kind,
    }  # fmt: skip


def wall_ns(moment: float) -> int:
    """A moment of `time.perf_counter` in nanoseconds since 1970."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}
