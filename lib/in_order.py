"""Many things at a time, their results in order: an asynchronous map with a bounded window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_in_order(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item] | AsyncIterable[Item], width: int
) -> AsyncGenerator[Result, None]:
    """`function` of each item, at most `width` at a time, in the items' order; items are taken as there is room.

    Closing the iterator cancels what runs; the first error ends it.
    """
    running: deque[asyncio.Future[Result]] = deque()
    try:
        async with aclosing(_each(items)) as each:
            async for item in each:
                running.append(asyncio.ensure_future(function(item)))
                if len(running) == width:
                    yield await running.popleft()
            while running:
                yield await running.popleft()
    finally:
        for future in running:
            future.cancel()


async def taken_in_a_thread(items: Iterator[Item], piece: int) -> AsyncGenerator[Item, None]:
    """Items whose making blocks, so many at a time and only as they are wanted."""
    while taken := await asyncio.to_thread(lambda: list(islice(items, piece))):
        for item in taken:
            yield item


async def _each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
