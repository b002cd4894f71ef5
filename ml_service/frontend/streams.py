"""Events that routes tell while something goes on; listened to once for all who look at the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ml_service.frontend.api import Api, ApiError
from ml_service.utils.logs import EventLogger

log = EventLogger("frontend")
_RETRY_S = 2.0
LAST = "done"
"""The event after which there is nothing more to hear."""


@dataclass(eq=False)
class Listener:
    """Who hears each event: its name and what it says."""

    tell: Callable[[str, Any], None]
    is_looking: Callable[[], bool]


@dataclass(eq=False)
class _Stream:
    api: Api
    path: str
    listeners: list[Listener] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def is_watched(self) -> bool:
        return any(listener.is_looking() for listener in self.listeners)

    async def run(self) -> None:
        while self.listeners:
            try:
                if self.is_watched and await self._heard_all():
                    return
            except ApiError:
                pass  # it may be away for a moment; the page says so by itself
            await asyncio.sleep(_RETRY_S)

    async def _heard_all(self) -> bool:
        async with aclosing(self.api.events(self.path)) as events:
            async for name, data in events:
                for listener in tuple(self.listeners):
                    try:
                        listener.tell(name, data)
                    except Exception:  # a bug on one page is not to end what all others are told
                        log.exception("page.failed", path=self.path)
                if name == LAST:
                    return True
                if not self.is_watched:
                    break  # nobody is told what nobody sees
        return False


class Streams:
    """All of a process."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str | None], _Stream] = {}

    def listen(self, api: Api, path: str, listener: Listener) -> Callable[[], None]:
        """Tell what the route tells from now on, until its last event. Calling what this returns ends it."""
        name = path, api.key
        stream = self._streams.get(name)
        if stream is None or stream.task is None or stream.task.done():
            stream = self._streams[name] = _Stream(api, path)
        stream.listeners.append(listener)
        if stream.task is None:
            stream.task = asyncio.create_task(stream.run(), name=f"stream {path}")

        def end() -> None:
            if listener not in stream.listeners:
                return
            stream.listeners.remove(listener)
            if not stream.listeners and stream.task is not None:
                stream.task.cancel()
                if self._streams.get(name) is stream:
                    del self._streams[name]

        return end
