"""Events from the decode loop's thread to one waiter in an event loop, with as few wake-ups as will do."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Doorbell:
    """Wakes the waiters of one event loop from another thread, together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wanted: deque[asyncio.Event] = deque()

    def want(self, waiter: asyncio.Event) -> None:
        """Have this one woken by the next `ring`."""
        self._wanted.append(waiter)

    def ring(self) -> None:
        """Wake them, from any thread. Those of a closed loop sleep on."""
        if self._wanted:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        while self._wanted:
            self._wanted.popleft().set()


class Doorbells:
    """One for each event loop that asks; rung together."""

    def __init__(self) -> None:
        self._of_loops: dict[asyncio.AbstractEventLoop, Doorbell] = {}

    def of_running_loop(self) -> Doorbell:
        """The doorbell of the loop that calls; those of closed loops are taken down."""
        loop = asyncio.get_running_loop()
        if loop not in self._of_loops:
            kept = {each: bell for each, bell in self._of_loops.items() if not each.is_closed()}
            self._of_loops = kept | {loop: Doorbell(loop)}
        return self._of_loops[loop]

    def ring(self) -> None:
        """Wake those who have something to take."""
        for bell in tuple(self._of_loops.values()):
            bell.ring()


class Mailbox(Generic[Item]):
    """Many put, one gets. A wake-up costs both threads more than a token, so it is done only where somebody waits."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._is_waiting = False

    def put(self, item: Item) -> None:
        """From any thread; whoever waits is woken when the doorbell is rung."""
        self._items.append(item)
        if self._is_waiting:
            self._is_waiting = False
            self._doorbell.want(self._arrived)

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
