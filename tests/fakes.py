"""Fakes that share the small interface of the real thing."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from lib.scores import nats_of
from ml_service.common.bundle import Architecture
from ml_service.common.errors import BadRequest, ModelFailure, TooLarge
from ml_service.common.settings import Settings
from ml_service.inference.caches import CacheBlock
from ml_service.inference.image_reader import ImageReader
from ml_service.inference.operators import Logits
from ml_service.inference.reading import Reading, ReadLine
from ml_service.inference.session import GraphInfo, Row
from ml_service.utils.telemetry import Telemetry

SMALL = Architecture(
    model_type="qwen3", vocabulary_size=300, context_length=64, layers=1, heads=1, key_value_heads=1,
    head_size=64, tied_embeddings=True, end_of_text_id=0, transformers={},
)  # fmt: skip


class CountingSession:
    """Answers each token with the next id, from the row's own tokens alone; checks that the cache would be right."""

    cache_bytes_per_token = 8
    shares_steps = True
    nats = staticmethod(nats_of)

    def __init__(self, slots: int = 2, chunk: int = 8) -> None:
        self.slots, self.chunk, self.architecture = slots, chunk, SMALL
        self.graph = GraphInfo({}, (), ())
        self.is_closed = False
        self.batches: list[list[Row]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_next: Exception | None = None
        self.caches = [np.zeros(SMALL.context_length + chunk, np.int64) for _ in range(slots)]
        self._cached = [0] * slots

    def run(self, rows: Sequence[Row]) -> Logits:
        assert self.gate.wait(10), "the test never opened the gate"
        self.batches.append(list(rows))
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        assert len({row.slot for row in rows}) == len(rows), "two rows share a slot"
        return np.concatenate([self._row(row) for row in rows])

    def _row(self, row: Row) -> Logits:
        assert 1 <= len(row.token_ids) <= self.chunk
        assert row.position <= self._cached[row.slot], "a row goes on behind the end of its cache"
        self._cached[row.slot] = stop = row.position + len(row.token_ids)
        self.caches[row.slot][row.position : stop] = row.token_ids
        ends = range(row.position + 1, stop + 1) if row.wants_all else [stop]
        return np.stack([self.logits_after(self.caches[row.slot][:end].tolist()) for end in ends])

    def logits_after(self, ids: list[int]) -> Logits:
        """What the network says after these tokens."""
        return one_hot(ids[-1] % (SMALL.vocabulary_size - 1) + 1)

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        return [self.caches[slot][start:stop].copy()]

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        self.caches[slot][start : start + len(block[0])] = block[0]
        self._cached[slot] = start + len(block[0])

    def close(self) -> None:
        self.is_closed = True


class ContextSession(CountingSession):
    """Says mostly what it said before, so that guesses come true, and looks at the whole context now and then."""

    def logits_after(self, ids: list[int]) -> Logits:
        if sum(position * token for position, token in enumerate(ids, 1)) % 5 == 0:
            return one_hot(sum(ids) % 40 + 1, second=sum(ids) % 7 + 1)
        return one_hot((3 * ids[-1] + ids[max(len(ids) - 2, 0)]) % 9 + 1, second=ids[-1] % 13 + 1)


def one_hot(token_id: int, second: int | None = None) -> Logits:
    """Logits that want this token, and a second one nearly as much."""
    logits = np.zeros(SMALL.vocabulary_size, np.float32)
    if second is not None:
        logits[second] = 3.5
    logits[token_id] = 4.0
    return logits


class PlainReader(ImageReader):
    """Takes what stands behind `picture:` for the text in a picture, and gives it back with the continuation."""

    def __init__(self) -> None:
        super().__init__(Settings(), Telemetry())
        self.errors: list[Exception] = []
        """Raised first, one at a time."""

    async def read(self, image: bytes) -> Reading:
        if self.errors:
            raise self.errors.pop(0)
        if len(image) > 10_000:
            raise TooLarge("the picture has too many pixels")
        if not image.startswith(b"picture:"):
            raise BadRequest("this is no picture that can be read")
        text = image.removeprefix(b"picture:").decode()
        if not text:
            raise ModelFailure("there is no readable text in the image")
        lines = [ReadLine(line, 0.9, ((0, 0), (9, 0), (9, 9), (0, 9))) for line in text.split("\n")]
        return Reading(text, tuple(lines), 10, 10)

    async def draw(self, image: bytes, reading: Reading, continuation: str) -> bytes:
        return b"drawn:" + reading.text.encode() + continuation.encode()
