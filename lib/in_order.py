"""Many things at a time, their results in order: an asynchronous map with a bounded window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_in_order(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], width: int
) -> AsyncGenerator[Result, None]:
    """`function` of each item, at most `width` at a time, in the items' order; items are taken as there is room.

    Closing the iterator cancels what runs; the first error ends it.
    """
    running: deque[asyncio.Future[Result]] = deque()
    try:
        for item in items:
            running.append(asyncio.ensure_future(function(item)))
            if len(running) == width:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for future in running:
            future.cancel()
