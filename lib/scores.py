"""Scores of language models: likelihoods as lm-evaluation-harness defines them; pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
    """A piece of a text to score: `inputs[i]` is followed by `targets[i]`."""

    inputs: list[int]
    targets: list[int]


def rolling_windows(token_ids: Sequence[int], prefix_id: int, length: int) -> Iterator[Window]:
    """Disjoint windows in which each token is predicted once, the first one from the prefix token.

    The rolling log-likelihood of lm-evaluation-harness with a context of one token: every window begins with the
    token before its first target, and no window has more than `length` inputs.
    """
    for start in range(0, len(token_ids), length):
        targets = list(token_ids[start : start + length])
        before = prefix_id if start == 0 else token_ids[start - 1]
        yield Window([before, *targets[:-1]], targets)


def nats_of(logits_TV: npt.NDArray[np.float32], targets: Sequence[int]) -> npt.NDArray[np.float64]:
    """The negative log-likelihood of each target, shape (tokens,), in nats; stable for any logits."""
    shifted = logits_TV.astype(np.float64) - logits_TV.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(targets)), np.asarray(targets)]
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - chosen)
