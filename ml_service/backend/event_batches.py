"""What the engine tells a stream, batch by batch: the first one before the answer begins, texts joined."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

from ml_service.inference.engine import Told
from ml_service.inference.sequence import Delta, Echo, Finished

Batches = AsyncGenerator[list[Told], None]


async def chained(first: list[Told], batches: Batches) -> Batches:
    """The first batch, which was waited for, and those after it."""
    yield first
    async for batch in batches:
        yield batch


def joined(batch: list[Told]) -> Iterator[Told]:
    """Deltas of one answer that follow each other as one, where nobody asked for their log-probabilities."""
    index, event = batch[0]
    for next_index, following in batch[1:]:
        if next_index == index and (both := _together(event, following)) is not None:
            event = both
        else:
            yield index, event
            index, event = next_index, following
    yield index, event


def _together(first: Echo | Delta | Finished, second: Echo | Delta | Finished) -> Delta | None:
    if isinstance(first, Delta) and isinstance(second, Delta) and second.choice.logprob is None:
        return Delta(first.text + second.text, second.choice)
    return None
