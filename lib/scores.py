"""Scores of language models: likelihoods as lm-evaluation-harness defines them; pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Score:
    """A likelihood over a text: sums, so that parts can be added."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of the original text; the tokens that end documents cost bits and bring no bytes."""
        return self.nats / math.log(2) / self.bytes

    @property
    def byte_perplexity(self) -> float:
        """e to the nats a byte."""
        return math.exp(self.nats / self.bytes)

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)


@dataclass(frozen=True)
class Window:
    """A piece of a text to score: the last of the `inputs` predict the `targets`, one each."""

    inputs: list[int]
    targets: list[int]

    @property
    def first(self) -> int:
        """The place among the inputs of the one that predicts the first target."""
        return len(self.inputs) - len(self.targets)


def rolling_windows(token_ids: Sequence[int], prefix_id: int, length: int) -> Iterator[Window]:
    """Windows in which each token is predicted once, the first one from the prefix token.

    Those of lm-evaluation-harness (`get_rolling_token_windows` with a context of one token, made disjoint): a window
    begins with the token before its first target; the last one, which has fewer targets, with as many before it as
    the `length` has room for.
    """
    count = len(token_ids)
    for start in range(0, count, length):
        stop = min(start + length, count)
        context = [prefix_id] if start == 0 else list(token_ids[stop - length - 1 : start])
        targets = list(token_ids[start:stop])
        yield Window([*context, *targets[:-1]], targets)


def nats_of(
    logits_TV: npt.NDArray[np.float32], targets: Sequence[int], bests: Sequence[int] | None = None
) -> npt.NDArray[np.float64]:
    """The negative log-likelihood of each target, shape (tokens,), in nats; stable for any logits.

    The logits are overwritten: copies of them would cost as much as the exponentials. `bests` are the likeliest
    tokens, where they are known.
    """
    rows, chosen = np.arange(len(targets)), np.asarray(targets)
    largest_T = logits_TV.max(axis=1) if bests is None else logits_TV[rows, np.asarray(bests)]
    nats_T = largest_T.astype(np.float64) - logits_TV[rows, chosen]
    for start in range(0, len(rows), _ROWS_AT_ONCE):  # what stays in the processor's cache is read three times
        some = slice(start, start + _ROWS_AT_ONCE)
        piece_TV = logits_TV[some]
        piece_TV -= largest_T[some, None]
        np.exp(piece_TV, out=piece_TV)
        nats_T[some] += np.log(piece_TV.sum(axis=1), dtype=np.float64)
    return np.asarray(nats_T)
