"""Feeds of a page's process: one question for all who look, none for nobody, told only where something is new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ml_service.frontend import feeds
from ml_service.frontend.api import ApiError
from ml_service.frontend.feeds import Feeds, Snapshot, Subscriber


class Route:
    """What a route answers, or raises, and how often it was asked."""

    key = None

    def __init__(self, says: Any) -> None:
        self.says, self.asked = says, 0

    async def get(self, path: str) -> Any:
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class Eye:
    """What one page was told."""

    def __init__(self) -> None:
        self.told: list[Snapshot] = []
        self.is_looking = True
        self.subscriber = Subscriber(self.told.append, lambda: self.is_looking)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_RETRY_S", 0.001)


def told(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def test_many_who_look_ask_once_and_who_comes_later_is_told_at_once() -> None:
    async def story() -> None:
        route, all_feeds, eyes = Route({"n": 1}), Feeds(), [Eye() for _ in range(10)]
        for eye in eyes[:9]:
            all_feeds.subscribe(route, "/a", 60.0, eye.subscriber)  # type: ignore[arg-type]
        await until(lambda: all(eye.told for eye in eyes[:9]))
        all_feeds.subscribe(route, "/a", 60.0, eyes[9].subscriber)  # type: ignore[arg-type]
        assert [snapshot.data for snapshot in eyes[9].told] == [{"n": 1}]
        assert route.asked == 1

    told(story)


def test_what_says_the_same_is_not_told_again() -> None:
    async def story() -> None:
        route, eye = Route({"n": 1}), Eye()
        Feeds().subscribe(route, "/a", 0.001, eye.subscriber)  # type: ignore[arg-type]
        await until(lambda: route.asked > 5)
        assert len(eye.told) == 1
        route.says = {"n": 2}
        await until(lambda: len(eye.told) == 2)

    told(story)


def test_trouble_is_told_once_and_again_where_it_is_another_and_data_stay() -> None:
    async def story() -> None:
        route, eye = Route({"n": 1}), Eye()
        Feeds().subscribe(route, "/a", 0.001, eye.subscriber)  # type: ignore[arg-type]
        await until(lambda: bool(eye.told))
        for trouble in (ApiError("away"), ApiError("a key is wanted", 401)):
            route.says, before = trouble, route.asked
            await until(lambda before=before: route.asked > before + 5)  # type: ignore[misc]
        assert [str(snapshot.error) for snapshot in eye.told[1:]] == ["away", "a key is wanted"]
        assert {snapshot.data["n"] for snapshot in eye.told} == {1}
        route.says = {"n": 1}
        await until(lambda: eye.told[-1].error is None)

    told(story)


def test_nobody_who_looks_is_nothing_asked() -> None:
    async def story() -> None:
        route, all_feeds, eye = Route({"n": 1}), Feeds(), Eye()
        end = all_feeds.subscribe(route, "/a", 0.001, eye.subscriber)  # type: ignore[arg-type]
        await until(lambda: bool(eye.told))
        eye.is_looking = False
        await asyncio.sleep(0.01)
        asked = route.asked
        await asyncio.sleep(0.02)
        assert route.asked == asked
        end()
        await until(lambda: not all_feeds._feeds)

    told(story)


def test_a_bug_on_one_page_is_not_felt_by_another() -> None:
    async def story() -> None:
        def stumble(_: Snapshot) -> None:
            raise ZeroDivisionError

        route, all_feeds, eye = Route({"n": 1}), Feeds(), Eye()
        all_feeds.subscribe(route, "/a", 60.0, Subscriber(stumble, lambda: True))  # type: ignore[arg-type]
        all_feeds.subscribe(route, "/a", 60.0, eye.subscriber)  # type: ignore[arg-type]
        await until(lambda: bool(eye.told))

    told(story)
