"""From logits to a token: pure functions of one row, its history and its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ml_service.common.errors import ModelFailure
from ml_service.common.types import GenerationParameters

Vector = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Bests = list[int | None]
"""The likeliest token of each row; None where a logit is not finite."""


class TokenLogprob(NamedTuple):
    """A token and the logarithm of its probability under the model itself, before any sampling parameter."""

    token_id: int
    logprob: float


class Choice(NamedTuple):
    """The chosen token; `logprob` is its own, `alternatives` are the likeliest ones, where asked for."""

    token_id: int
    logprob: TokenLogprob | None = None
    alternatives: tuple[TokenLogprob, ...] = ()


class Sampler:
    """Chooses the tokens of one sequence. Its random numbers depend on seed, stream and the token's index alone."""

    def __init__(self, parameters: GenerationParameters, seed: int, stream: int = 0) -> None:
        """`stream` tells the choices of one request apart: each has random numbers of its own."""
        self._parameters = parameters
        self.seed, self._stream = seed, stream
        self._is_plain = parameters.repetition_penalty == 1.0 and not parameters.logit_bias
        self._bias_ids = np.fromiter(parameters.logit_bias, np.int64)
        self._biases = np.fromiter(parameters.logit_bias.values(), np.float32)
        self._seen: Mask | None = None
        self._known = 0

    def choose(
        self, logits_V: Vector, history: Sequence[int], allowed: Mask | None = None, best: int | None = None
    ) -> Choice:
        """Choose the next token; `history` is the prompt and what came after, and only grows from call to call.

        `best` is the likeliest token, where the caller knows it already. Raises ModelFailure where a logit is NaN or
        infinite.
        """
        p = self._parameters
        if best is None:
            best = likeliest(logits_V)
        adjusted = logits_V
        if not self._is_plain or allowed is not None:
            adjusted = self._adjust(logits_V, history, allowed)
            best = int(adjusted.argmax())
        token_id = best if p.temperature == 0 else self._draw(adjusted)
        return Choice(token_id) if p.logprobs is None else with_logprobs(logits_V, token_id, p.logprobs)

    def _adjust(self, logits_V: Vector, history: Sequence[int], allowed: Mask | None) -> Vector:
        adjusted = logits_V
        if self._parameters.repetition_penalty != 1.0:
            adjusted = penalise_seen(adjusted, self._seen_tokens(history, len(logits_V)), self._parameters)
        if len(self._bias_ids):
            adjusted = adjusted.copy()
            np.add.at(adjusted, self._bias_ids, self._biases)
        return adjusted if allowed is None else np.where(allowed, adjusted, -np.inf).astype(np.float32)

    def _seen_tokens(self, history: Sequence[int], vocabulary_size: int) -> Mask:
        if self._seen is None:
            self._seen = np.zeros(vocabulary_size, np.bool_)
        self._seen[np.asarray(history[self._known :], np.int64)] = True
        self._known = len(history)
        return self._seen

    def _draw(self, logits_V: Vector) -> int:
        p = self._parameters
        ids, probabilities = filtered_distribution(logits_V, p.temperature, p.top_k, p.top_p, p.min_p)
        masses = np.cumsum(probabilities)
        index = int(np.searchsorted(masses, self._generator.random() * masses[-1], side="right"))
        return int(ids[min(index, len(ids) - 1)])

    @cached_property
    def _generator(self) -> np.random.Generator:
        """Made for those who draw: it takes longer than to read a short prompt."""
        return np.random.Generator(np.random.Philox(self.seed).jumped(self._stream))


def likeliest(logits_V: Vector) -> int:
    """The token with the largest logit. Raises ModelFailure where one is NaN or infinite."""
    best = int(logits_V.argmax())  # a NaN, or else the largest: so one look finds what is not finite
    if not math.isfinite(logits_V[best]):
        raise ModelFailure("the model gave logits that are not finite")
    return best


def likeliest_of_rows(logits_TV: Vector) -> Bests:
    """The likeliest token of each row, all at once; None where a row is not finite, for its own sampler to tell."""
    bests = logits_TV.argmax(axis=1)
    finite = np.isfinite(logits_TV[np.arange(len(bests)), bests])
    return [best if is_finite else None for best, is_finite in zip(bests.tolist(), finite.tolist(), strict=True)]


def penalise_seen(logits_V: Vector, seen_V: Mask, parameters: GenerationParameters) -> Vector:
    """Divide the positive and multiply the negative logits of tokens seen before (Keskar et al. 2019, CTRL)."""
    penalty = np.float32(parameters.repetition_penalty)
    return np.where(seen_V, np.where(logits_V > 0, logits_V / penalty, logits_V * penalty), logits_V)


def filtered_distribution(
    logits_V: Vector, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be drawn, in a fixed order, and their probabilities before renormalisation.

    The order of the filters is that of transformers: temperature, then `top_k` (0: all), then `top_p` (Holtzman et
    al. 2019: the smallest head whose mass reaches it), then `min_p` (Nguyen et al. 2024: at least that share of the
    best one's probability). At least one token stays.
    """
    ids = np.arange(len(logits_V))
    if 0 < top_k < len(logits_V):
        ids = np.sort(np.argpartition(logits_V, -top_k)[-top_k:])
    candidates = logits_V[ids].astype(np.float64)
    with np.errstate(over="ignore"):  # a temperature next to 0 makes all but the best infinitely unlikely
        probabilities = np.exp((candidates - candidates.max()) / temperature)
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        # Tokens below this have less than the tail's mass together, so they are no part of the head: sort the rest.
        kept = probabilities >= min((1.0 - top_p) / len(ids), float(probabilities.max()))
        ids, probabilities = ids[kept], probabilities[kept]
        order = np.lexsort((ids, -probabilities))
        ids, probabilities = ids[order], probabilities[order]
        head = max(int((np.cumsum(probabilities) - probabilities < top_p).sum()), 1)
        ids, probabilities = ids[:head], probabilities[:head]
    if min_p > 0.0:
        kept = probabilities >= min_p * probabilities.max()
        ids, probabilities = ids[kept], probabilities[kept]
    return ids, probabilities


def with_logprobs(logits_V: Vector, token_id: int, alternatives: int) -> Choice:
    """A token with its log-probability and those of the likeliest ones, the lowest id first among equals."""
    shifted = logits_V.astype(np.float64) - float(logits_V.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    count = min(alternatives, len(logprobs))
    best: tuple[TokenLogprob, ...] = ()
    if count:
        least = np.partition(logits_V, -count)[-count]
        likely = np.flatnonzero(logits_V >= least)
        order = likely[np.lexsort((likely, -logits_V[likely]))][:count]
        best = tuple(TokenLogprob(int(i), float(logprobs[i])) for i in order)
    return Choice(token_id, TokenLogprob(token_id, float(logprobs[token_id])), best)
