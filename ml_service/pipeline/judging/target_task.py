"""Prompts and what should come of them: the greedy continuation beside the target, and the target's likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from lib.bootstrap import RESAMPLES, Floats
from lib.text_scores import bleu, chrf, rouge_l
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.scoring import complete_patiently, encode_pair, score_continuation
from ml_service.pipeline.judging.judged import Cell, Judged, Metric, Sums, cell_of, metric, shares
from ml_service.pipeline.judging.likeness import SUMS, likeness, likeness_of_corpus
from ml_service.pipeline.judging.tables import Row

_CORPUS_SCORES = {"chrf": chrf, "bleu": bleu}


class TargetTask:
    """Text metrics of what the model made, and bits per byte of what it should have made."""

    columns = ("target", "prediction", "finish_reason", "exact_match", "cer", "wer", "rougeL", "target_nats")

    def __init__(
        self, engine: Engine, prompt: str, target: str, parameters: GenerationParameters, with_rouge: bool
    ) -> None:
        self._engine, self._prompt, self._target = engine, prompt, target
        self._parameters, self._with_rouge = parameters, with_rouge
        self._sums = Sums(_statistics)
        self._wanted: list[str] = []
        self._got: list[str] = []

    async def judge(self, row: Row) -> Judged:
        """Raises BadRequest where something is missing or too long, ModelFailure where the model fails at it."""
        prompt, target = cell_of(row, self._prompt), row.cells.get(self._target, "")
        request_id = f"row {row.number}"
        completion = await complete_patiently(
            self._engine, await self._engine.encode(prompt), self._parameters, request_id
        )
        likelihood = await score_continuation(self._engine, *encode_pair(self._engine, prompt, target), request_id)
        got = completion.text
        cells, sums, error_rate = likeness(target, got)
        rouge = rouge_l(target, got) if self._with_rouge else 0.0
        own: dict[str, Cell] = {
            "target": target, "prediction": got, "finish_reason": completion.end.reason, "rougeL": round(rouge, 5),
            "target_nats": round(likelihood.nats, 5),
        }  # fmt: skip
        tokens = completion.end.usage.completion_tokens + likelihood.tokens
        return Judged(own | cells, (*sums, rouge, likelihood.nats, len(target.encode())), error_rate, tokens)

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        self._sums.add(judged)
        self._wanted.append(str(judged.cells["target"]))
        self._got.append(str(judged.cells["prediction"]))

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Of the corpus."""
        found = self._sums.metrics(wanted)
        for name, score in _CORPUS_SCORES.items():
            if wanted(name):
                value, low, high = score(self._wanted, self._got, RESAMPLES)
                found[name] = metric(value, (low, high), len(self._got))
        return found


def _statistics(sums: Floats) -> Mapping[str, Floats]:
    rouge, nats, size_bytes = sums.T[SUMS:]
    return {
        **likeness_of_corpus(sums),
        "rougeL": shares(rouge, sums.T[0]),
        "bits_per_byte": shares(nats, size_bytes) / math.log(2),
    }
