"""The page beside a real server: started by who looks, passed through, ended, started again; nothing of it in us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import AsyncMock

import psutil
import pytest
from aiohttp import WSMessage, WSMsgType
from fastapi.testclient import TestClient
from starlette.types import Message
from websockets.sync.client import connect

from ml_service.backend.app import create_app
from ml_service.backend.page_process import PageProcess
from ml_service.backend.page_proxy import PageProxy
from ml_service.common.settings import PROJECT, Settings
from tests.test_process import Server

SOCKET = "/ui/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    server = Server(bundle, slots="1", threads="1", page_idle_s="0.5", api_key="secret")
    yield server
    server.kill()


def page_of(server: Server) -> psutil.Process | None:
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie is one
            if "ml_service.frontend.process" in child.cmdline():
                return child
    return None


def address_of(server: Server) -> str:
    return str(server.client.base_url).replace("http", "ws", 1)


def test_the_first_visitor_starts_it_and_it_ends_when_nobody_looks(server: Server) -> None:
    server.until(lambda: page_of(server) is None, "alone")
    assert server.client.get("/").headers["location"] == "/ui/"
    assert page_of(server) is None, "nobody has looked yet"
    answer = server.client.get("/ui/")
    assert (answer.status_code, "ml_service" in answer.text) == (200, True)
    assert page_of(server) is not None
    server.until(lambda: page_of(server) is None, "alone again")


def test_an_open_page_keeps_it_and_its_socket_is_passed_through(server: Server) -> None:
    with connect(address_of(server) + SOCKET) as page:
        assert str(page.recv()).startswith("0{"), "Engine.IO's greeting"
        page.send("40")
        assert str(page.recv()).startswith("40{"), "Socket.IO's"
        process = page_of(server)
    assert process is not None


def test_one_that_dies_is_started_again(server: Server) -> None:
    server.client.get("/ui/")
    first = page_of(server)
    assert first is not None
    first.kill()
    server.until(lambda: server.client.get("/ui/").status_code == 200, "there again")
    second = page_of(server)
    assert second is not None and second.pid != first.pid


def test_it_loads_nothing_from_elsewhere_and_is_not_framed(server: Server) -> None:
    answer = server.client.get("/ui/data")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "://" not in policy


def test_headers_are_passed_on_as_they_are(server: Server) -> None:
    plain = server.client.get("/ui/assets/page.css", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(plain.headers.get_list("date")) == 1
    tag = {"If-None-Match": plain.headers["etag"]}
    assert server.client.get("/ui/assets/page.css", headers=tag).status_code == 304


def test_the_key_is_kept_where_no_script_reads_it(server: Server) -> None:
    kept = server.client.post("/ui/key", content="secret").headers["set-cookie"]
    assert {"HttpOnly", "Path=/ui", "SameSite=strict"} <= {part.strip() for part in kept.split(";")}
    assert "python" not in server.client.get("/ui/deployments").text
    server.client.cookies.clear()
    assert "Max-Age=0" in server.client.post("/ui/key", content="").headers["set-cookie"]


def test_requests_for_the_page_are_no_requests_of_the_service(server: Server) -> None:
    server.client.get("/ui/")
    headers = {"Authorization": "Bearer secret"}
    assert "/ui" not in server.client.get("/metrics", headers=headers).text


def test_the_page_knows_none_of_our_secrets(server: Server) -> None:
    server.client.get("/ui/")
    process = page_of(server)
    assert process is not None
    assert not [name for name in process.environ() if name.startswith("ML_SERVICE_")]


def test_it_ends_with_a_server_that_is_killed(bundle: Path) -> None:
    server = Server(bundle, slots="1", threads="1")
    server.client.get("/ui/")
    process = page_of(server)
    assert process is not None
    server.process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    server.kill()


def test_an_open_page_does_not_hold_up_the_end(bundle: Path) -> None:
    server = Server(bundle, slots="1", threads="1")
    with connect(address_of(server) + SOCKET) as page:
        page.recv()
        code, errors = server.stop()
    assert code == 0, errors
    assert "Traceback" not in errors


def test_without_a_page_there_are_the_docs(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"page": False}))) as client:
        assert client.get("/", follow_redirects=False).headers["location"] == "/docs"
        assert client.get("/ui/").status_code == 404


def test_a_page_alone_says_whose_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ml_service.cli", "page", "--help"], cwd=PROJECT, capture_output=True, text=True,
        env=os.environ, check=True,
    )  # fmt: skip
    assert "--backend" in done.stdout


def test_a_server_has_nothing_that_the_page_is_made_with() -> None:
    code = "import sys, ml_service.backend.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert not {"nicegui", "socketio", "aiohttp", "humanize"} & set(done.stdout.split())


def test_a_browser_that_leaves_while_it_is_told_something_is_no_error(settings: Settings) -> None:
    class Page:
        async def __aenter__(self) -> Page:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def __aiter__(self) -> AsyncIterator[WSMessage]:
            yield WSMessage(WSMsgType.TEXT, "news", None)

    class Session:
        def ws_connect(self, *_: object, **__: object) -> Page:
            return Page()

    async def receive() -> Message:
        if not comes:
            await asyncio.Event().wait()
        return comes.pop()

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if message["type"] == "websocket.send":
            raise OSError("the browser is gone")

    comes: list[Message] = [{"type": "websocket.connect"}]
    sent: list[str] = []
    proxy = PageProxy(PageProcess(settings))
    proxy._connected = AsyncMock(return_value=Session())  # type: ignore[method-assign]
    scope = {"type": "websocket", "path": "/ui/x", "raw_path": b"/ui/x", "query_string": b"", "headers": []}
    asyncio.run(proxy(scope, receive, send))
    assert sent == ["websocket.accept", "websocket.send"]
