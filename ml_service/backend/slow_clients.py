"""Clients who keep a connection busy with nothing: an unfinished head, a trickling body, an answer nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ml_service.backend.joined_writes import JoinedWrites
from ml_service.utils.logs import EventLogger

log = EventLogger("server")
_REFUSAL = (
    b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
)
_MAX_HEAD_BYTES = 64 << 10
"""Of address and headers, and of what else is no body: the parser itself keeps all that comes."""


@dataclass(frozen=True)
class Patience:
    """How long a client may take, while it is the client who is waited for."""

    head_s: float = 10.0
    """For the head of a request, from the connection's or the head's beginning."""
    body_s: float = 20.0
    """For a body, and more"""
    body_bytes_per_s: float = 500.0
    """for a large one, which comes as quickly as this at least."""
    unread_s: float = 60.0
    """For taking some 50 kB of an answer, once the buffers between are full."""


class WatchedProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it, which itself waits for ever; asked now and then how long it has been waiting.

    Web sockets are not covered: they are the page's, and have pings.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waits_for: tuple[str, object] | None = None
        self._waited_s = 0.0
        self._body_bytes = self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Whatever comes."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, b"Request Header Fields Too Large", "address and headers are longer than 64 KiB")

    def on_headers_complete(self) -> None:
        """A request's head is there."""
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._body_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Some of its body."""
        self._head_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def look(self, elapsed_s: float, patience: Patience) -> None:
        """So much later: cut the client off where it was waited for too long."""
        waits_for = self._what_it_waits_for()
        is_the_same = waits_for == self._waits_for
        self._waits_for, self._waited_s = waits_for, self._waited_s + elapsed_s if is_the_same else 0.0
        match waits_for:
            case "head", _ if self._waited_s > patience.head_s:
                self._cut_off("the request's head")
            case "body", _ if self._waited_s > patience.body_s + self._body_bytes / patience.body_bytes_per_s:
                self._cut_off("the request's body")
            case "reader", _ if self._waited_s > patience.unread_s:
                self._cut_off("somebody to read the answer")

    def resume_writing(self) -> None:
        """The client has read some of what is buffered."""
        self._waits_for = None
        super().resume_writing()

    def _what_it_waits_for(self) -> tuple[str, object] | None:
        """Of the client, and after which request; None where it is the service whose turn it is."""
        if self.flow.write_paused:
            return "reader", self.cycle
        if self.flow.read_paused or self.transport.is_closing():
            return None
        if self.cycle is None or self.cycle.response_complete:
            # Between requests uvicorn has a timer of its own, until a byte comes.
            return ("head", self.cycle) if self.timeout_keep_alive_task is None else None
        return ("body", self.cycle) if self.cycle.more_body else None

    def _cut_off(self, what: str) -> None:
        self._refuse(408, b"Request Timeout", f"the service waited {self._waited_s:.0f} s for {what}")

    def _refuse(self, status: int, phrase: bytes, reason: str) -> None:
        log.info("client.cut_off", reason=reason, client=self.client[0] if self.client is not None else "unknown")
        cycle = self.cycle
        if self.flow.write_paused or (cycle is not None and cycle.response_started and not cycle.response_complete):
            self.transport.abort()  # in the middle of an answer there is nothing to say
            return
        body = f"{reason}\n".encode()
        self.transport.write(_REFUSAL % (status, phrase, len(body), body))
        self.transport.close()


def cut_off_slow_clients(connections: Iterable[object], elapsed_s: float, patience: Patience) -> None:
    """Look at every connection; to be called again and again."""
    for connection in list(connections):
        if isinstance(connection, WatchedProtocol):
            connection.look(elapsed_s, patience)
