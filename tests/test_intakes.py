"""A client who leaves and a server that ends, at every point of an upload: the app is asked as a server asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from ml_service.backend.app import create_app
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.tables import DataBatch
from tests.test_http_data import A_FILE, END, FORM, a_text, part, staged


@pytest.fixture
def app(bundle: Path, tmp_path: Path) -> FastAPI:
    return create_app(Settings(bundle=bundle, store=tmp_path / "store", slots=1, threads=1))


async def send_and_leave(app: FastAPI, pieces: list[bytes], is_whole: bool) -> list[int]:
    """Send some of a body or all of it, then go; the statuses that were answered."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if is_whole:
        messages[-1]["more_body"] = False
    statuses = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", FORM.encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/add_data", "raw_path": b"/add_data", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("here", 1), "server": ("there", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return statuses


def in_a_running(app: FastAPI, act: Callable[[], Any]) -> None:
    async def run() -> None:
        async with app.router.lifespan_context(app):
            await act()

    asyncio.run(run())


def batches_of(app: FastAPI) -> list[str]:
    """Their states."""
    database = Database(None, app.state.settings.store)
    with database.reading() as session:
        states = list(session.scalars(select(DataBatch.state).order_by(DataBatch.id)))
    database.close()
    return states


def test_a_client_who_leaves_within_the_body_leaves_nothing(app: FastAPI) -> None:
    big = part("files", a_text(1, 300_000).encode(), "a.txt")

    async def act() -> None:
        assert await send_and_leave(app, [big[:100], big[100:1_500_000], big[1_500_000:1_600_000]], is_whole=False) in (
            [400],
            [499],
        )

    in_a_running(app, act)
    assert staged(app.state.settings.store) == []
    assert batches_of(app) == []


def test_a_client_who_leaves_after_the_body_loses_only_the_answer(app: FastAPI) -> None:
    async def act() -> None:
        assert await send_and_leave(app, [A_FILE, END], is_whole=True) == [499]
        await asyncio.gather(*app.state.intakes._tasks)

    in_a_running(app, act)
    assert staged(app.state.settings.store) == []
    assert batches_of(app) == ["accepted"]


def test_a_server_that_ends_ends_its_intake_and_keeps_nothing_of_it(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_service.backend.intakes.COMMAND", ("/bin/sh", "-c", "exec sleep 600"))

    async def act() -> None:
        assert await send_and_leave(app, [A_FILE, END], is_whole=True) == [499]

    in_a_running(app, act)
    assert staged(app.state.settings.store) == []
    assert batches_of(app) == ["rejected"]
