"""What routes answer, asked again and again while somebody looks; once for all who look at the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ml_service.frontend.api import Api, ApiError
from ml_service.utils.logs import EventLogger

log = EventLogger("frontend")
_RETRY_S = 2.0
"""While the service does not answer."""


@dataclass(frozen=True)
class Snapshot:
    """What a route said last, and what is wrong since then."""

    data: Any = None
    """None where it has not said anything yet."""
    error: ApiError | None = None
    asked_at: float = 0.0
    """When `data` came, by `time.time()`."""

    @property
    def trouble(self) -> str | None:
        """What is wrong, in words."""
        return None if self.error is None else str(self.error)


Tell = Callable[[Snapshot], None]
Pace = float | Callable[[Any], float]
"""How many seconds lie between two questions; a function of what was said last where that changes."""


@dataclass(eq=False)
class Subscriber:
    """Who looks; nobody is asked for one who does not."""

    tell: Tell
    is_looking: Callable[[], bool]


@dataclass(eq=False)
class _Feed:
    api: Api
    path: str
    pace: Pace
    subscribers: list[Subscriber] = field(default_factory=list)
    snapshot: Snapshot = field(default_factory=Snapshot)
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_watched(self) -> bool:
        return any(subscriber.is_looking() for subscriber in self.subscribers)

    @property
    def every_s(self) -> float:
        if not callable(self.pace):
            return self.pace
        return _RETRY_S if self.snapshot.data is None else self.pace(self.snapshot.data)

    async def run(self) -> None:
        while self.subscribers:
            self.wake.clear()
            if self.is_watched:
                await self._look()
            pause_s = _RETRY_S if self.snapshot.error is not None else self.every_s
            try:
                await asyncio.wait_for(self.wake.wait(), pause_s)
            except TimeoutError:
                continue

    async def _look(self) -> None:
        before = self.snapshot
        try:
            data = await self.api.get(self.path)
            self.snapshot = Snapshot(data, None, time.time())
        except ApiError as error:
            self.snapshot = Snapshot(before.data, error, before.asked_at)
        if self.snapshot.data == before.data and self.snapshot.trouble == before.trouble:
            return  # nothing that anybody could see
        for subscriber in tuple(self.subscribers):
            try:
                subscriber.tell(self.snapshot)
            except Exception:  # a bug on one page is not to end what all others are told
                log.exception("page.failed", path=self.path)


class Feeds:
    """All of a process."""

    def __init__(self) -> None:
        self._feeds: dict[tuple[str, str | None, Pace], _Feed] = {}

    def subscribe(self, api: Api, path: str, pace: Pace, subscriber: Subscriber) -> Callable[[], None]:
        """Tell what the route says, at once where it is known, and whenever it says something else.

        Calling what this returns ends it.
        """
        name = path, api.key, pace
        feed = self._feeds.setdefault(name, _Feed(api, path, pace))
        feed.subscribers.append(subscriber)
        if feed.task is None:
            feed.task = asyncio.create_task(feed.run(), name=f"feed {path}")
        elif feed.snapshot.data is not None or feed.snapshot.error is not None:
            subscriber.tell(feed.snapshot)

        def end() -> None:
            if subscriber not in feed.subscribers:
                return
            feed.subscribers.remove(subscriber)
            if not feed.subscribers:
                self._feeds.pop(name, None)
                feed.wake.set()

        return end

    def refresh(self, api: Api, prefix: str) -> None:
        """Ask again now whatever begins so: something has been changed."""
        for (path, key, _), feed in self._feeds.items():
            if key == api.key and path.startswith(prefix):
                feed.wake.set()

    def wake(self) -> None:
        """Somebody looks again."""
        for feed in self._feeds.values():
            if time.time() - feed.snapshot.asked_at > feed.every_s:
                feed.wake.set()
