"""Events from the decode loop's thread to one waiter in an event loop, with as few wake-ups as will do."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ml_service.inference.sequence import Delta, Event

Item = TypeVar("Item")
FRAME_S = 1 / 60
"""Of a display. Tokens that one shows in the same frame are told together, for a wake-up costs more than a token."""


class Doorbell:
    """Wakes the waiters of one event loop from another thread, together: the urgent ones at once, others when due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop, self._clock = loop, clock
        self._wanted: deque[asyncio.Event] = deque()
        self._urgent: deque[asyncio.Event] = deque()
        self._rung_at = self._woken_at = -math.inf

    def want(self, waiter: asyncio.Event, *, is_urgent: bool) -> None:
        """Have this one woken by the next `ring`, or by the last one of this frame."""
        (self._urgent if is_urgent else self._wanted).append(waiter)

    def ring(self, is_last: bool = False) -> None:
        """Wake them, from any thread, after each step; the last time nobody is left. Those of a closed loop sleep on."""
        now = self._clock()
        step_s, self._rung_at = now - self._rung_at, now
        is_due = is_last or now + step_s > self._woken_at + FRAME_S  # the next step would be too late
        if self._urgent or (is_due and self._wanted):
            if is_due:
                self._woken_at = now
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._wake, is_due)

    def _wake(self, is_due: bool) -> None:
        for waiters in (self._urgent, self._wanted) if is_due else (self._urgent,):
            while waiters:
                waiters.popleft().set()


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

    def ring(self, is_last: bool = False) -> None:
        """Wake those who have something to take."""
        for bell in tuple(self._of_loops.values()):
            bell.ring(is_last)


class Mailbox(Generic[Item]):
    """Many put, one gets. A wake-up costs both threads more than a token, so it is done only where somebody waits."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._is_waiting = False

    def put(self, item: Item, *, wakes: bool = True, is_urgent: bool = True) -> None:
        """From any thread; whoever waits is woken when the doorbell is rung."""
        self._items.append(item)
        if wakes and (self._is_waiting or is_urgent):
            self._is_waiting = False
            self._doorbell.want(self._arrived, is_urgent=is_urgent)

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

    has_begun = False

    def publish(event: Event) -> None:
        nonlocal has_begun
        is_delta = isinstance(event, Delta)
        mailbox.put((index, event), wakes=wakes_for_deltas or not is_delta, is_urgent=not (is_delta and has_begun))
        has_begun = True

    return publish
