"""Streams of a page's process: one for all who listen, again after a failure, none for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ml_service.frontend import streams
from ml_service.frontend.api import ApiError
from ml_service.frontend.streams import LAST, Listener, Streams


class Told:
    """A route whose events come when they are told; None breaks it off."""

    key = None

    def __init__(self) -> None:
        self.asked = 0
        self.coming: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        self.asked += 1
        while (event := await self.coming.get()) is not None:
            yield event
        raise ApiError(f"{path} is away")


class Ear:
    """What one page has heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.is_looking = True
        self.listener = Listener(lambda name, _: self.heard.append(name), lambda: self.is_looking)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_RETRY_S", 0.001)


def test_all_who_listen_share_one_stream_to_its_last_event() -> None:
    async def story() -> None:
        api, all_streams, ears = Told(), Streams(), (Ear(), Ear())
        for ear in ears:
            all_streams.listen(api, "/metrics/1", ear.listener)  # type: ignore[arg-type]
        for name in ("state", "points", LAST):
            api.coming.put_nowait((name, {}))
        await until(lambda: all(LAST in ear.heard for ear in ears))
        assert api.asked == 1
        assert [ear.heard for ear in ears] == [["state", "points", LAST]] * 2

    asyncio.run(story())


def test_a_stream_that_breaks_off_is_asked_for_again() -> None:
    async def story() -> None:
        api, all_streams, ear = Told(), Streams(), Ear()
        all_streams.listen(api, "/metrics/1", ear.listener)  # type: ignore[arg-type]
        for event in (("points", {}), None, ("state", {}), (LAST, {})):
            api.coming.put_nowait(event)
        await until(lambda: LAST in ear.heard)
        assert (api.asked, ear.heard) == (2, ["points", "state", LAST])

    asyncio.run(story())


def test_a_bug_on_one_page_ends_nothing_for_the_others() -> None:
    async def story() -> None:
        api, all_streams, ear = Told(), Streams(), Ear()
        broken = Listener(lambda name, _: [][0], lambda: True)
        for listener in (broken, ear.listener):
            all_streams.listen(api, "/metrics/1", listener)  # type: ignore[arg-type]
        api.coming.put_nowait(("state", {}))
        api.coming.put_nowait((LAST, {}))
        await until(lambda: LAST in ear.heard)

    asyncio.run(story())


def test_who_leaves_or_does_not_look_is_told_nothing_and_nobody_keeps_no_stream() -> None:
    async def story() -> None:
        api, all_streams, ears = Told(), Streams(), (Ear(), Ear())
        ends = [all_streams.listen(api, "/metrics/1", ear.listener) for ear in ears]  # type: ignore[arg-type]
        api.coming.put_nowait(("state", {}))
        await until(lambda: ears[1].heard)
        ends[0]()
        ears[1].is_looking = False
        api.coming.put_nowait(("points", {}))
        await until(lambda: "points" in ears[1].heard)  # it had been under way
        await asyncio.sleep(0.02)
        assert (api.asked, ears[0].heard) == (1, ["state"]), "nobody looks, so nothing is asked for"
        ears[1].is_looking = True
        await until(lambda: api.asked == 2)
        ends[1]()
        await asyncio.sleep(0.01)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("stream")]

    asyncio.run(story())
