"""Scores of predicted labels from confusion matrices, of one or of a thousand resamples at once; pure functions.

scikit-learn says the same one matrix at a time (the tests hold them to each other): for a bootstrap that takes seconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrices = npt.NDArray[np.int64]
"""Shape (..., labels, labels): how often the row's label was taken for the column's."""
Floats = npt.NDArray[np.float64]


def accuracy(confusion: Matrices) -> Floats:
    """The share of right ones."""
    return np.asarray(np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1)))


def macro_f1(confusion: Matrices) -> Floats:
    """The mean over the labels that occur of the harmonic mean of precision and recall."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    either = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1 = np.divide(2 * right, either, out=np.zeros(either.shape), where=either > 0)
    return np.asarray(f1.sum(axis=-1) / (either > 0).sum(axis=-1))


def matthews_correlation(confusion: Matrices) -> Floats:
    """Of any number of labels (Gorodkin 2004), -1 to 1; 0 where all are, or are taken for, one label."""
    wanted, got = confusion.sum(axis=-1, dtype=np.float64), confusion.sum(axis=-2, dtype=np.float64)
    total = wanted.sum(axis=-1)
    right = np.trace(confusion, axis1=-2, axis2=-1)
    covariance = right * total - (wanted * got).sum(axis=-1)
    spread = np.sqrt((total**2 - (wanted**2).sum(axis=-1)) * (total**2 - (got**2).sum(axis=-1)))
    return np.asarray(np.divide(covariance, spread, out=np.zeros(np.shape(spread)), where=spread > 0))
