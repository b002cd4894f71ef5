"""Prompts and what should come of them: the greedy continuation beside the target, and the target's likelihood."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping

import numpy as np

from lib.bootstrap import RESAMPLES, Floats
from lib.text_scores import bleu, character_edits, chrf, rouge_l, word_edits
from ml_service.common.errors import BadRequest
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.scoring import complete_patiently, encode_pair, score_continuation
from ml_service.pipeline.judging.judged import Cell, Judged, Metric, metric, ratios, shares
from ml_service.pipeline.judging.tables import Row

_SUMS = 9
_CORPUS_SCORES = {"chrf": chrf, "bleu": bleu}


class TargetTask:
    """Text metrics of what the model made, and bits per byte of what it should have made."""

    columns = ("target", "prediction", "finish_reason", "exact_match", "cer", "wer", "rougeL", "target_nats")

    def __init__(
        self, engine: Engine, prompt: str, target: str, parameters: GenerationParameters, with_rouge: bool
    ) -> None:
        self._engine, self._prompt, self._target = engine, prompt, target
        self._parameters, self._with_rouge = parameters, with_rouge
        self._rows = array("d")
        self._wanted: list[str] = []
        self._got: list[str] = []

    async def judge(self, row: Row) -> Judged:
        """Raises BadRequest where something is missing or too long, ModelFailure where the model fails at it."""
        prompt, target = row.cells.get(self._prompt), row.cells.get(self._target, "")
        if prompt is None:
            raise BadRequest(f"no text in column {self._prompt!r}")
        request_id = f"row {row.number}"
        completion = await complete_patiently(
            self._engine, await self._engine.encode(prompt), self._parameters, request_id
        )
        likelihood = await score_continuation(self._engine, *encode_pair(self._engine, prompt, target), request_id)
        got = completion.text
        characters, words = character_edits(target, got), word_edits(target, got)
        rouge = rouge_l(target, got) if self._with_rouge else 0.0
        is_match = got.strip() == target.strip()
        cells: dict[str, Cell] = {
            "target": target, "prediction": got, "finish_reason": completion.end.reason, "exact_match": int(is_match),
            "cer": round(characters.rate, 5), "wer": round(words.rate, 5), "rougeL": round(rouge, 5),
            "target_nats": round(likelihood.nats, 5),
        }  # fmt: skip
        sums = (1.0, is_match, *characters, *words, rouge, likelihood.nats, len(target.encode()))
        tokens = completion.end.usage.completion_tokens + likelihood.tokens
        return Judged(cells, sums, characters.rate, tokens)

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        self._rows.extend(judged.sums)
        self._wanted.append(str(judged.cells["target"]))
        self._got.append(str(judged.cells["prediction"]))

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Of the corpus."""
        found = ratios(np.frombuffer(self._rows).reshape(-1, _SUMS), _statistics)
        for name, score in _CORPUS_SCORES.items():
            if wanted(name):
                value, low, high = score(self._wanted, self._got, RESAMPLES)
                found[name] = metric(value, (low, high), len(self._got))
        return {name: figure for name, figure in found.items() if wanted(name)}


def _statistics(sums: Floats) -> Mapping[str, Floats]:
    rows, matches, edits, length, word_edits_, words, rouge, nats, size_bytes = sums.T
    return {
        "exact_match": shares(matches, rows),
        "cer": shares(edits, length),
        "wer": shares(word_edits_, words),
        "rougeL": shares(rouge, rows),
        "bits_per_byte": shares(nats, size_bytes) / math.log(2),
    }
