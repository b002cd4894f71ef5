"""Bootstrap: how far a figure would move if the rows had been other ones of their kind (Efron 1979); pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
CONFIDENCE = 0.95


def resampled_sums(rows: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Sums over as many rows, drawn with replacement: from (rows, columns) to (resamples, columns)."""
    random, count = np.random.default_rng(seed), len(rows)
    sums = np.empty((resamples, rows.shape[1]))
    for index in range(resamples):
        weights = np.bincount(random.integers(0, count, count), minlength=count)
        sums[index] = weights @ rows
    return sums


def resampled_counts(counts: npt.NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.int64]:
    """The same where rows are of few kinds: from how many there are of each to (resamples, kinds)."""
    total = int(counts.sum())
    return np.random.default_rng(seed).multinomial(total, counts / total, resamples)


def percentile_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Between which values the figure lies in this share of the resamples."""
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.asarray(values, np.float64), (tail, 100 - tail))
    return float(low), float(high)
