"""`/ui` of the service: requests and web sockets, passed on to the process that makes the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ml_service.backend.middleware import HEADER
from ml_service.backend.page_process import PageProcess
from ml_service.common.errors import Unavailable
from ml_service.utils.logs import EventLogger, request_id

if TYPE_CHECKING:
    import aiohttp

log = EventLogger("page")
PATH = "/ui"
_ONE_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)
"""Headers that are between two neighbours only (RFC 9110, 7.6.1)."""
_HANDSHAKE = frozenset(
    b"sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-protocol".split()
)
_OUR_ID = frozenset({HEADER.lower().encode()})
"""The browser's own, if any, is the service's by now."""
_GONE = 1012
"""The web socket's code for a service that restarts."""
Headers = Iterable[tuple[bytes, bytes]]


class PageProxy:
    """An ASGI app; mount it at `PATH`."""

    def __init__(self, process: PageProcess) -> None:
        self._process = process
        self._session: aiohttp.ClientSession | None = None
        self._address = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on. Raises Unavailable where there is no page."""
        with self._process.visited():
            if scope["type"] == "http":
                await self._pass_request(Request(scope, receive), scope, receive, send)
            elif scope["type"] == "websocket":
                await self._pass_socket(WebSocket(scope, receive, send))

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def _pass_request(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        import aiohttp  # 12 MB that a server which shows no page does without

        session = await self._connected(scope)
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        try:
            response = await session.request(
                request.method,
                f"http://page{_target(scope)}",
                headers=[*_passed(scope["headers"], scope["scheme"], _OUR_ID), (HEADER, request_id.get() or "none")],
                data=request.stream() if has_body else None,
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
            raise Unavailable("the page does not answer", retry_after_s=2) from error
        async with response:
            answer = StreamingResponse(_pieces(response), response.status)
            answer.raw_headers = [
                (name.lower(), value) for name, value in response.raw_headers if name.lower() not in _ONE_HOP
            ]
            await answer(scope, receive, send)

    async def _pass_socket(self, browser: WebSocket) -> None:
        import aiohttp

        try:
            session = await self._connected(browser.scope)
            async with session.ws_connect(
                f"http://page{_target(browser.scope)}",
                headers=_passed(browser.scope["headers"], "http", _HANDSHAKE),
                max_msg_size=0,
            ) as page:
                await browser.accept()
                await _first_of(_to_page(browser, page), _to_browser(browser, page))
        except (aiohttp.ClientError, Unavailable) as error:
            log.info("page.socket_refused", error=str(error))
            with suppress(WebSocketDisconnect):
                await browser.close(_GONE)
        except WebSocketDisconnect:  # the browser left while it was being told something
            pass

    async def _connected(self, scope: Scope) -> aiohttp.ClientSession:
        """A session with the process that runs now."""
        import aiohttp

        address = await self._process.address(_backend(scope))
        if self._session is None or address != self._address:
            await self.close()
            self._address = address
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(address, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),  # as the browser sent it
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _backend(scope: Scope) -> str:
    """This very server, as the page's process reaches it: where the browser's connection came in."""
    host, port = scope["server"]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    path = scope["raw_path"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _passed(headers: Headers, scheme: str, without: frozenset[bytes] = frozenset()) -> list[tuple[str, str]]:
    left_out = _ONE_HOP | without
    kept = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name not in left_out]
    has_scheme = any(name == "x-forwarded-proto" for name, _ in kept)
    return kept if has_scheme else [*kept, ("x-forwarded-proto", scheme)]


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for piece in response.content.iter_any():
        yield piece


async def _to_page(browser: WebSocket, page: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        try:
            message = await browser.receive()
        except WebSocketDisconnect:
            return
        if message["type"] == "websocket.disconnect":
            return
        if message.get("bytes") is not None:
            await page.send_bytes(message["bytes"])
        else:
            await page.send_str(message["text"])


async def _to_browser(browser: WebSocket, page: aiohttp.ClientWebSocketResponse) -> None:
    import aiohttp

    async for message in page:
        if message.type is aiohttp.WSMsgType.TEXT:
            await browser.send_text(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await browser.send_bytes(message.data)
    await browser.close(_GONE)


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Until one of them is over; the other one is then cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
