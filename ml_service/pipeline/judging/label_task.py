"""Labels by likelihood: a text's label is the one whose text is the likeliest behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lib.bootstrap import percentile_interval, resampled_counts
from lib.label_scores import accuracy, macro_f1, matthews_correlation
from ml_service.inference.engine import Engine
from ml_service.inference.scoring import encode_pair, score_continuation
from ml_service.inference.sequence import Likelihood
from ml_service.pipeline.judging.judged import Cell, Judged, Metric, cell_of, metric
from ml_service.pipeline.judging.tables import Row

MAX_LABELS = 50
_FIGURES = {"accuracy": accuracy, "f1": macro_f1, "mcc": matthews_correlation}


class LabelTask:
    """As a multiple choice of lm-evaluation-harness: text, delimiter, then each label's text in turn."""

    columns = ("label", "predicted", "margin_nats")

    def __init__(
        self,
        engine: Engine,
        column: str,
        label_column: str,
        labels: Sequence[str],
        texts: Mapping[str, str],
        delimiter: str,
    ) -> None:
        self._engine, self._column, self._label_column = engine, column, label_column
        self._labels = list(labels)
        self._texts = [delimiter + texts.get(label, label) for label in labels]
        self._confusion = np.zeros((len(labels), len(labels)), np.int64)

    async def judge(self, row: Row) -> Judged:
        """Raises BadRequest where text or label is missing, ModelFailure where the model fails at it."""
        text, label = cell_of(row, self._column), cell_of(row, self._label_column)
        found = await asyncio.gather(*(self._score(text, label_text, row.number) for label_text in self._texts))
        nats = [each.nats for each in found]
        wanted, got = self._labels.index(label), int(np.argmin(nats))
        others = [value for index, value in enumerate(nats) if index != wanted]
        margin = min(others) - nats[wanted] if others else 0.0
        cells: dict[str, Cell] = {"label": label, "predicted": self._labels[got], "margin_nats": round(margin, 5)}
        return Judged(cells, (wanted, got), -margin, sum(each.tokens for each in found))

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        wanted, got = map(int, judged.sums)
        self._confusion[wanted, got] += 1

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """From the confusion matrix, and from a thousand that other rows would have given."""
        size, count = len(self._labels), int(self._confusion.sum())
        resamples = resampled_counts(self._confusion.ravel()).reshape(-1, size, size)
        return {
            name: metric(float(figure(self._confusion)), percentile_interval(figure(resamples)), count)
            for name, figure in _FIGURES.items()
            if wanted(name)
        }

    async def _score(self, text: str, label_text: str, number: int) -> Likelihood:
        context, continuation = encode_pair(self._engine, text, label_text)
        return await score_continuation(self._engine, context, continuation, f"row {number}")
