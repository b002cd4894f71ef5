"""Events from the decode loop's thread to one waiter in an event loop, with as few wake-ups as will do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ml_service.inference.sequence import Delta, Event

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Many put, one gets. A wake-up costs both threads more than a token, so it is done only where somebody waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._is_waiting = False

    def put(self, item: Item, *, wakes: bool = True) -> None:
        """From any thread. Raises RuntimeError where the waiter's event loop is closed."""
        self._items.append(item)
        if wakes and self._is_waiting:
            self._is_waiting = False
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def get_all(self) -> list[Item]:
        """What has come since the last time; waits for the first item."""
        while not self._items:
            self._arrived.clear()
            self._is_waiting = True
            if self._items:  # it came between the look and the sign
                self._is_waiting = False
                break
            await self._arrived.wait()
        return [self._items.popleft() for _ in range(len(self._items))]


def publisher(mailbox: Mailbox[tuple[int, Event]], index: int, *, wakes_for_deltas: bool) -> Callable[[Event], None]:
    """What a sequence publishes with: its events, under its index."""

    def publish(event: Event) -> None:
        mailbox.put((index, event), wakes=wakes_for_deltas or not isinstance(event, Delta))

    return publish
