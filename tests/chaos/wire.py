"""HTTP/1.1 as thin as it goes: a client that takes little of the processor which it shares with who answers.

Per request aiohttp takes as much as the service needs to refuse one, and under overload most are refused.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

PATH = "/forward"
PATIENCE_S = 60.0
"""A request that takes longer hangs."""
NO_ANSWER = 0
_TOLD_BYTES = 200


@dataclass(frozen=True)
class Answer:
    """What became of a request; times are the machine's monotonic ones, the same in every process."""

    began: float
    seconds: float
    status: int
    """0 where there was no answer."""
    retry_after: str | None = None
    error: str = ""

    @property
    def ended(self) -> float:
        """When it was there."""
        return self.began + self.seconds


class Client:
    """Asks `/forward`, each request on a connection that was left idle or on a new one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None, "an address has both"
        self._address = (parts.hostname, parts.port)
        self._idle: list[_Connection] = []

    def request_of(self, body: bytes) -> bytes:
        """What is sent for a body of JSON."""
        head = f"POST {PATH} HTTP/1.1\r\nHost: {self._address[0]}:{self._address[1]}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, request: bytes) -> Answer:
        """One answer; a connection that breaks and a time that is over are answers, too."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = self._left() or await self._opened()
                await connection.ask(request)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            return Answer(began, time.monotonic() - began, NO_ANSWER, None, f"{type(error).__name__}: {error}")
        if connection.is_open:
            self._idle.append(connection)
        error = "" if connection.status == 200 else connection.body[:_TOLD_BYTES].decode("utf-8", "replace")
        return Answer(began, time.monotonic() - began, connection.status, connection.retry_after, error)

    def _left(self) -> _Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    async def _opened(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.status, self.body = NO_ANSWER, b""
        self.retry_after: str | None = None
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)

    async def ask(self, request: bytes) -> None:
        """Send and wait. Raises OSError where the connection breaks before all is there."""
        assert self._transport is not None, "it was opened"
        self.body, self.retry_after = b"", None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await self._answered
        except BaseException:
            self.is_open = False
            self._transport.abort()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        self.is_open = False
        self._fail(error or ConnectionResetError("the connection was closed before the answer was there"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() == b"retry-after":
            self.retry_after = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()
        self.is_open = self.is_open and self._parser.should_keep_alive()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)
