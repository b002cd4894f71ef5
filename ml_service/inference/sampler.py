"""From logits to a token: pure functions of one row, its history and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_service.common.errors import ModelFailure
from ml_service.common.types import GenerationParameters

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the logarithm of its probability under the model itself, before any sampling parameter."""

    token_id: int
    logprob: float


@dataclass(frozen=True)
class Choice:
    """The chosen token; `logprobs` are the chosen one and the likeliest alternatives, where asked for."""

    token_id: int
    logprob: TokenLogprob | None
    alternatives: tuple[TokenLogprob, ...]


class Sampler:
    """Chooses the tokens of one sequence. Its random numbers depend on its seed and the token's index alone."""

    def __init__(self, parameters: GenerationParameters, seed: int) -> None:
        self._parameters = parameters
        self._generator = np.random.Generator(np.random.Philox(seed))

    def choose(self, logits_V: Vector, history: Sequence[int]) -> Choice:
        """Choose the next token; `history` is the prompt and what came after.

        Raises ModelFailure where a logit is not finite.
        """
        p = self._parameters
        if not np.isfinite(logits_V).all():
            raise ModelFailure("the model gave logits that are not finite")
        penalised = penalise_repetition(logits_V, history, p.repetition_penalty)
        token_id = int(penalised.argmax()) if p.temperature == 0 else self._draw(penalised)
        if p.logprobs is None:
            return Choice(token_id, None, ())
        return _with_logprobs(logits_V, token_id, p.logprobs)

    def _draw(self, logits_V: Vector) -> int:
        p = self._parameters
        ids, probabilities = filtered_distribution(logits_V, p.temperature, p.top_k, p.top_p, p.min_p)
        point = self._generator.random() * probabilities.sum()
        index = int(np.searchsorted(np.cumsum(probabilities), point, side="right"))
        return int(ids[min(index, len(ids) - 1)])


def penalise_repetition(logits_V: Vector, history: Sequence[int], penalty: float) -> Vector:
    """Divide the positive and multiply the negative logits of tokens seen before (Keskar et al. 2019, CTRL)."""
    if penalty == 1.0 or not history:
        return logits_V
    seen = np.unique(np.asarray(history))
    penalised = logits_V.copy()
    values = penalised[seen]
    penalised[seen] = np.where(values > 0, values / penalty, values * penalty)
    return penalised


def filtered_distribution(
    logits_V: Vector, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be drawn, likeliest first, and their probabilities before renormalisation.

    The order is that of transformers: temperature, then `top_k` (0: all), then `top_p` (Holtzman et al. 2019: the
    smallest head whose mass reaches it), then `min_p` (Nguyen et al. 2024: at least that share of the best one's
    probability). At least one token stays.
    """
    kept = min(top_k, len(logits_V)) if top_k > 0 else len(logits_V)
    everything = np.arange(len(logits_V))
    candidates = np.argpartition(logits_V, -kept)[-kept:] if kept < len(logits_V) else everything
    # Ties in order of ids, so that the same logits give the same order on every machine.
    ids = candidates[np.lexsort((candidates, -logits_V[candidates]))]
    behind_best = logits_V[ids].astype(np.float64) - float(logits_V[ids[0]])
    with np.errstate(over="ignore"):  # a temperature next to 0 makes all but the best infinitely unlikely
        probabilities = np.exp(behind_best / temperature)
    probabilities /= probabilities.sum()
    if top_p < 1.0:
        mass_before = np.cumsum(probabilities) - probabilities
        probabilities = probabilities[: max(int((mass_before < top_p).sum()), 1)]
    if min_p > 0.0:
        probabilities = probabilities[: max(int((probabilities >= min_p * probabilities[0]).sum()), 1)]
    return ids[: len(probabilities)], probabilities


def _with_logprobs(logits_V: Vector, token_id: int, alternatives: int) -> Choice:
    shifted = logits_V.astype(np.float64) - float(logits_V.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    order = np.lexsort((np.arange(len(logprobs)), -logprobs))[:alternatives]
    best = tuple(TokenLogprob(int(i), float(logprobs[i])) for i in order)
    return Choice(token_id, TokenLogprob(token_id, float(logprobs[token_id])), best)
