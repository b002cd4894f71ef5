"""Fakes that share the small interface of the real thing."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ml_service.common.bundle import Architecture
from ml_service.inference.session import GraphInfo, Logits, Row

SMALL = Architecture(
    model_type="qwen3", vocabulary_size=300, context_length=64, hidden_size=64, layers=1, heads=1, key_value_heads=1,
    head_size=64, intermediate_size=64, rms_norm_epsilon=1e-6, rope_theta=1e4, tied_embeddings=True, end_of_text_id=0,
)  # fmt: skip


class CountingSession:
    """Answers each token with the next id, from the row's own tokens alone; checks that the cache would be right."""

    def __init__(self, slots: int = 2, chunk: int = 8) -> None:
        self.slots, self.chunk, self.architecture = slots, chunk, SMALL
        self.graph = GraphInfo({}, (), ())
        self.is_closed = False
        self.batches: list[list[Row]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail_next: Exception | None = None
        self._cached = [0] * slots

    def run(self, rows: Sequence[Row]) -> Logits:
        assert self.gate.wait(10), "the test never opened the gate"
        self.batches.append(list(rows))
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        logits = np.zeros((len(rows), SMALL.vocabulary_size), np.float32)
        for index, row in enumerate(rows):
            assert len(row.token_ids) <= self.chunk
            assert row.position in (0, self._cached[row.slot]), "a row goes on where its cache does not end"
            self._cached[row.slot] = row.position + len(row.token_ids)
            logits[index, row.token_ids[-1] % (SMALL.vocabulary_size - 1) + 1] = 1.0
        return logits

    def close(self) -> None:
        self.is_closed = True
