"""Events from a thread to waiters in an event loop: nothing lost, nobody forgotten, one wake-up for all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ml_service.inference.mailbox import Doorbell, Doorbells, Mailbox


class CountingLoop:
    """Counts wake-ups on their way to the real loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.wake_ups = loop, 0

    def call_soon_threadsafe(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self.wake_ups += 1
        self._loop.call_soon_threadsafe(callback, *arguments)


def test_all_who_wait_are_woken_at_once() -> None:
    async def go() -> int:
        loop = CountingLoop(asyncio.get_running_loop())
        bell = Doorbell(loop)  # type: ignore[arg-type]
        mailboxes: list[Mailbox[int]] = [Mailbox(bell) for _ in range(5)]
        waiters = [asyncio.create_task(mailbox.get_all()) for mailbox in mailboxes]
        await asyncio.sleep(0)
        for number, mailbox in enumerate(mailboxes):
            mailbox.put(number)
            mailbox.put(number + 10)
        bell.ring()
        assert await asyncio.gather(*waiters) == [[number, number + 10] for number in range(5)]
        bell.ring()
        return loop.wake_ups

    assert asyncio.run(go()) == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_nothing_is_lost_between_a_thread_and_its_waiters(script: list[tuple[int, bool]]) -> None:
    """Each line: to whom, whether the bell is rung behind it."""

    async def go() -> list[list[int]]:
        bells = Doorbells()
        mailboxes: list[Mailbox[int]] = [Mailbox(bells.of_running_loop()) for _ in range(3)]

        def put_all() -> None:
            for number, (index, rings) in enumerate(script):
                mailboxes[index].put(number)
                if rings:
                    bells.ring()
            for mailbox in mailboxes:
                mailbox.put(-1)
            bells.ring()

        async def take(mailbox: Mailbox[int]) -> list[int]:
            taken: list[int] = []
            while -1 not in taken:
                taken += await mailbox.get_all()
            return taken[:-1]

        thread = threading.Thread(target=put_all)
        tasks = [asyncio.create_task(take(mailbox)) for mailbox in mailboxes]
        thread.start()
        taken = await asyncio.gather(*tasks)
        thread.join()
        return taken

    expected = [[number for number, line in enumerate(script) if line[0] == index] for index in range(3)]
    assert asyncio.run(go()) == expected


def test_the_bells_of_closed_loops_are_taken_down_and_harm_nobody() -> None:
    bells = Doorbells()

    async def wait_in_vain() -> None:
        mailbox: Mailbox[int] = Mailbox(bells.of_running_loop())
        task = asyncio.create_task(mailbox.get_all())
        await asyncio.sleep(0)
        mailbox.put(1)
        task.cancel()

    asyncio.run(wait_in_vain())
    bells.ring()

    async def look() -> int:
        bells.of_running_loop()
        return len(bells._of_loops)

    assert asyncio.run(look()) == 1
