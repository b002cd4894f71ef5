"""8-bit weights with a scale for each output, and 4-bit weights that expand to them exactly; in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LARGEST_CODE = 127
GROUP_SIZE = 32
"""Inputs that share a factor in 4 bit."""
SMALLEST_NIBBLE, LARGEST_NIBBLE, LARGEST_FACTOR = -8, 7, 15
"""Every nibble times every factor is an 8-bit code."""
_CLIPS = (1.0, 0.92, 0.84, 0.76, 0.68)
"""How much of a group's range is kept, tried one after the other: less is finer, and cuts the largest weights."""
_STEPS = (0.85, 1.0)
"""Scales of an output that are tried, in parts of the one that just covers its largest weight."""
_ROWS_AT_ONCE = 256
"""What is quantised together should fit into the cache."""

Weights = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Scales = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Nibbles:
    """A matrix in 4 bit: weight = nibble * factor of its group * scale of its output."""

    nibbles_NK: Codes
    """From -8 to 7, (outputs, inputs)."""
    factors_NG: Codes
    """From 1 to 15, (outputs, inputs / 32)."""
    scales_N: Scales

    def expanded(self) -> Codes:
        """The 8-bit codes that they stand for: exact, since no product leaves the range."""
        return self.nibbles_NK * np.repeat(self.factors_NG, GROUP_SIZE, axis=1)


def quantize_rows(weight_NK: Weights) -> tuple[Codes, Scales]:
    """Quantise each output by its largest magnitude; returns codes (outputs, inputs) and scales (outputs,).

    weight = code * scale, codes from -127 to 127. Raises ValueError where a weight is not finite.
    """
    _check(weight_NK)
    scales_N = (np.abs(weight_NK).max(axis=1) / np.float32(LARGEST_CODE)).astype(np.float32)
    codes_NK = np.rint(weight_NK / _divisors(scales_N)[:, None]).clip(-LARGEST_CODE, LARGEST_CODE)
    return codes_NK.astype(np.int8), scales_N


def dequantize_rows(codes_NK: Codes, scales_N: Scales) -> Weights:
    """The weights that the codes stand for, shape (outputs, inputs)."""
    return codes_NK.astype(np.float32) * scales_N[:, None]


def quantize_nibbles(weight_NK: Weights) -> Nibbles:
    """Quantise to 4 bit with the factors and scales that lose least in squares (after QServe, Lin et al. 2024).

    Raises ValueError where the inputs are no multiple of 32 or a weight is not finite.
    """
    _check(weight_NK)
    if weight_NK.shape[1] % GROUP_SIZE:
        raise ValueError(f"{weight_NK.shape[1]} inputs are no multiple of the group size {GROUP_SIZE}")
    parts = [_best_nibbles(weight_NK[i : i + _ROWS_AT_ONCE]) for i in range(0, len(weight_NK), _ROWS_AT_ONCE)]
    return Nibbles(
        np.concatenate([part.nibbles_NK for part in parts]),
        np.concatenate([part.factors_NG for part in parts]),
        np.concatenate([part.scales_N for part in parts]),
    )


def _best_nibbles(weight_NK: Weights) -> Nibbles:
    """Try the scales of an output, and under each the factors of every group; keep what loses least."""
    groups_NGI = weight_NK.reshape(len(weight_NK), -1, GROUP_SIZE)
    ranges_NG = np.abs(groups_NGI).max(axis=2)
    covering_N = ranges_NG.max(axis=1) / np.float32(LARGEST_NIBBLE * LARGEST_FACTOR)
    best_loss_N = np.full(len(weight_NK), np.inf, np.float32)
    scales_N, factors_NG = _divisors(covering_N), np.ones(ranges_NG.shape, np.float32)
    for step in _STEPS:
        tried_N = _divisors(covering_N * np.float32(step))
        tried_NG, loss_NG = _best_factors(groups_NGI, ranges_NG, tried_N)
        loss_N = loss_NG.sum(axis=1)
        better_N = loss_N < best_loss_N
        best_loss_N = np.where(better_N, loss_N, best_loss_N)
        scales_N = np.where(better_N, tried_N, scales_N)
        factors_NG = np.where(better_N[:, None], tried_NG, factors_NG)
    nibbles_NGI = _rounded(groups_NGI, factors_NG * scales_N[:, None])
    return Nibbles(nibbles_NGI.reshape(weight_NK.shape).astype(np.int8), factors_NG.astype(np.int8), scales_N)


def _best_factors(groups_NGI: Weights, ranges_NG: Weights, scales_N: Scales) -> tuple[Scales, Scales]:
    best_NG, best_loss_NG = np.ones_like(ranges_NG), np.full(ranges_NG.shape, np.inf, np.float32)
    for clip in _CLIPS:
        factors_NG = np.rint(ranges_NG * np.float32(clip / LARGEST_NIBBLE) / scales_N[:, None])
        factors_NG = factors_NG.clip(1, LARGEST_FACTOR)
        steps_NG = factors_NG * scales_N[:, None]
        errors_NGI = _rounded(groups_NGI, steps_NG) * steps_NG[..., None] - groups_NGI
        loss_NG = np.einsum("ngi,ngi->ng", errors_NGI, errors_NGI)
        better_NG = loss_NG < best_loss_NG
        best_NG, best_loss_NG = np.where(better_NG, factors_NG, best_NG), np.where(better_NG, loss_NG, best_loss_NG)
    return best_NG, best_loss_NG


def _rounded(groups_NGI: Weights, steps_NG: Scales) -> Weights:
    codes_NGI: Weights = np.rint(groups_NGI / steps_NG[..., None]).clip(SMALLEST_NIBBLE, LARGEST_NIBBLE)
    return codes_NGI


def _check(weight_NK: Weights) -> None:
    if not np.isfinite(weight_NK).all():
        raise ValueError("a weight is not finite: the run has diverged and cannot be exported")


def _divisors(scales: Scales) -> Scales:
    """An output of zeros has codes 0, whatever they are multiplied with."""
    return np.where(scales == 0, np.float32(1), scales).astype(np.float32)
