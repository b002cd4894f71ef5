"""What the engine tells a stream, batch by batch; the first one is waited for before the answer begins."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ml_service.inference.work import Told

Batches = AsyncGenerator[list[Told], None]


async def chained(first: list[Told], batches: Batches) -> Batches:
    """The first batch, which was waited for, and those after it."""
    yield first
    async for batch in batches:
        yield batch
