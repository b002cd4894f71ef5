"""Clients who are slow on purpose, on real sockets; the time that they take is told to the service, not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from ml_service.backend.joined_writes import JoinedWrites
from ml_service.backend.slow_clients import Patience, WatchedProtocol, cut_off_slow_clients

PATIENCE = Patience()
HEAD = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Service:
    """An app that reads what comes, and writes without end where it is asked to."""

    def __init__(self) -> None:
        self.state = ServerState()
        self.ended: list[str] = []
        self.received_bytes = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/busy":  # it does not read
            await asyncio.Event().wait()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.ended.append("the client has left")
                    return
                self.received_bytes += len(message["body"])
                if not message["more_body"]:
                    break
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while scope["path"] == "/endless" and not self.is_empty:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"done"})
        finally:
            self.ended.append("over")

    @property
    def is_empty(self) -> bool:
        return not self.state.connections

    def later(self, seconds: float, steps: int = 20) -> None:
        for _ in range(steps):
            cut_off_slow_clients(self.state.connections, seconds / steps, PATIENCE)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Service, asyncio.StreamReader, asyncio.StreamWriter]]:
    service = Service()
    config = uvicorn.Config(service.app, http=WatchedProtocol, log_config=None, lifespan="off", interface="asgi3")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: WatchedProtocol(config=config, server_state=service.state, app_state={}, _loop=loop), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await until(lambda: not service.is_empty)
    try:
        yield service, reader, writer
    finally:
        writer.close()
        server.close()
        for task in service.state.tasks:
            task.cancel()
        await asyncio.gather(*service.state.tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def trickled(service: Service, writer: asyncio.StreamWriter) -> int:
    """For so many seconds a byte each, until the service has enough of it."""
    for seconds in range(1000):
        writer.write(b"x")
        await asyncio.sleep(0.001)
        if service.is_empty:
            return seconds
        service.later(1.0, steps=1)
    raise AssertionError("it went on for ever")


def story(play: Callable[[Service, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
    async def run() -> None:
        async with connected() as (service, reader, writer):
            await play(service, reader, writer)

    asyncio.run(run())


def test_head_and_body_of_an_answer_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    flush = JoinedWrites._flush

    def told(self: JoinedWrites) -> None:
        writes.extend([self._held] if self._held else [])
        flush(self)

    monkeypatch.setattr(JoinedWrites, "_flush", told)

    async def play(_: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert writes == [answer]

    story(play)


def test_who_connects_and_says_nothing_is_cut_off() -> None:
    async def play(service: Service, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        service.later(PATIENCE.head_s * 0.9)
        assert not service.is_empty
        service.later(PATIENCE.head_s * 0.3)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        await until(lambda: service.is_empty)

    story(play)


def test_a_head_that_comes_a_byte_at_a_time_is_cut_off() -> None:
    async def play(service: Service, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE[:-2] + b"X")
        assert PATIENCE.head_s <= await trickled(service, writer) <= PATIENCE.head_s + 3

    story(play)


@pytest.mark.parametrize(
    "endless", [b"GET /", b"GET / HTTP/1.1\r\nX: ", HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1;"]
)
def test_a_head_without_end_takes_no_memory_without_end(endless: bytes) -> None:
    async def play(service: Service, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(endless.replace(b"Content-Length: 1000000\r\n", b""))
        for _ in range(1000):
            if service.is_empty:
                return
            writer.write(b"x" * 1000)
            await asyncio.sleep(0.001)
        raise AssertionError("it went on for ever")

    story(play)


def test_many_bytes_that_are_a_body_are_no_head() -> None:
    async def play(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"x" * 1_000_000)
        assert b"200 OK" in await reader.readuntil(b"0\r\n\r\n")
        assert service.received_bytes == 1_000_000

    story(play)


def test_the_second_head_of_a_connection_has_the_same_time_and_pauses_between_are_not_counted() -> None:
    async def play(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(WHOLE)
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
            service.later(PATIENCE.head_s * 2)  # uvicorn's own timer is for this
            assert not service.is_empty
        writer.write(b"GET")
        await until(lambda: all(c.timeout_keep_alive_task is None for c in service.state.connections))  # type: ignore[union-attr]
        service.later(PATIENCE.head_s * 1.2)
        assert b" 408 " in await reader.read()

    story(play)


def test_a_body_that_trickles_is_cut_off_and_one_that_comes_steadily_is_not() -> None:
    async def play(service: Service, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for second in range(100):  # twice the slowest pace
            writer.write(b"x" * int(2 * PATIENCE.body_bytes_per_s))
            expected = int(2 * PATIENCE.body_bytes_per_s) * (second + 1)
            await until(lambda expected=expected: service.received_bytes == expected)  # type: ignore[misc]
            service.later(1.0, steps=1)
        assert not service.is_empty
        slowly = PATIENCE.body_s + service.received_bytes / PATIENCE.body_bytes_per_s - 100  # so long it took until now
        assert slowly <= await trickled(service, writer) <= slowly + 4
        await until(lambda: "the client has left" in service.ended)

    story(play)


def test_a_body_that_the_service_does_not_read_is_nobody_elses_fault() -> None:
    async def play(service: Service, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD.replace(b"/body", b"/busy") + b"x" * 500_000)
        await until(lambda: any(c.flow is not None and c.flow.read_paused for c in service.state.connections))  # type: ignore[union-attr]
        service.later(PATIENCE.body_s * 1000)
        assert not service.is_empty

    story(play)


def test_who_reads_nothing_of_an_answer_is_cut_off_and_its_work_ends() -> None:
    async def play(service: Service, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(WHOLE.replace(b"GET /", b"GET /endless"))
        await until(lambda: any(c.flow.write_paused for c in service.state.connections))  # type: ignore[union-attr]
        (connection,) = service.state.connections
        buffered = connection.transport.get_write_buffer_size()  # type: ignore[union-attr]
        assert buffered < 1 << 20  # beside the kernel's
        service.later(PATIENCE.unread_s * 0.9)
        assert service.ended == []
        service.later(PATIENCE.unread_s * 0.3)
        await until(lambda: service.ended == ["over"])
        assert service.is_empty

    story(play)


def test_who_reads_slowly_but_reads_is_let_be() -> None:
    async def play(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE.replace(b"GET /", b"GET /endless"))
        for _ in range(20):
            await until(lambda: any(c.flow.write_paused for c in service.state.connections))  # type: ignore[union-attr]
            service.later(PATIENCE.unread_s * 0.5)
            (connection,) = service.state.connections
            seen = 0
            while connection.flow.write_paused:  # type: ignore[union-attr]
                seen += len(await reader.read(1 << 20))
        assert not service.is_empty

    story(play)


def test_an_answer_that_takes_long_is_not_the_clients_fault() -> None:
    async def play(service: Service, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(WHOLE.replace(b"GET /", b"GET /busy"))
        await until(lambda: bool(service.state.tasks))
        service.later(3600)
        assert not service.is_empty

    story(play)
