"""Texts by their rolling log-likelihood, with the definitions of lm-evaluation-harness."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np

from lib.bootstrap import Floats
from ml_service.inference.engine import Engine
from ml_service.inference.scoring import score_rolling
from ml_service.inference.sequence import Likelihood
from ml_service.pipeline.judging.judged import Judged, Metric, Sums, cell_of, shares
from ml_service.pipeline.judging.tables import Row

_SPACE = re.compile(r"\s+")
_LONG_CHARACTERS = 1 << 16


class TextTask:
    """Each token is scored once; words and bytes are those of the text as it came."""

    columns = ("nats", "tokens", "bytes", "words", "hits", "text_bits_per_byte")

    def __init__(self, engine: Engine, column: str) -> None:
        self._engine, self._column = engine, column
        self._sums = Sums(_statistics)
        self._long_ones = asyncio.Lock()

    async def judge(self, row: Row) -> Judged:
        """Raises BadRequest where there is no text, ModelFailure where the model fails at it."""
        text = cell_of(row, self._column)
        found = await self._score(text, f"row {row.number}")
        size_bytes, words = len(text.encode()), len(_SPACE.split(text))
        bits = found.nats / math.log(2) / size_bytes
        cells = {
            "nats": round(found.nats, 5), "tokens": found.tokens, "bytes": size_bytes, "words": words,
            "hits": found.hits, "text_bits_per_byte": round(bits, 5),
        }  # fmt: skip
        return Judged(cells, (found.nats, found.tokens, size_bytes, words, found.hits), bits, found.tokens)

    async def _score(self, text: str, request_id: str) -> Likelihood:
        """One long text at a time: it fills the steps alone, and its tokens take twenty times its memory."""
        async with self._long_ones if len(text) > _LONG_CHARACTERS else nullcontext():
            return await score_rolling(self._engine, self._engine.tokens_of(text), request_id)

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        self._sums.add(judged)

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Of the corpus."""
        return self._sums.metrics(wanted)


def _statistics(sums: Floats) -> Mapping[str, Floats]:
    nats, tokens, size_bytes, words, hits = sums.T
    loss, nats_per_byte = shares(nats, tokens), shares(nats, size_bytes)
    with np.errstate(over="ignore"):  # a model that knows nothing of such texts: the figure is left out
        return {
            "avg_loss": loss,
            "perplexity": np.exp(loss),
            "bits_per_byte": nats_per_byte / math.log(2),
            "byte_perplexity": np.exp(nats_per_byte),
            "word_perplexity": np.exp(shares(nats, words)),
            "token_accuracy": shares(hits, tokens),
        }
