"""Matrices of 8-bit codes in the order in which `vpdpbusd` reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_REGISTER = 16
PANEL = 2 * _REGISTER
"""Columns that lie together: two registers."""
_GROUP = 4
"""Inputs that one instruction multiplies and adds."""


class Packed(NamedTuple):
    """A matrix (inputs, outputs) as the compiled product reads it, filled up with zeros."""

    codes: npt.NDArray[np.int8]
    """(panels, inputs / 4, 32, 4)"""
    scales: npt.NDArray[np.float32]
    """Of each column, (panels * 32,)."""
    corrections: npt.NDArray[np.int32]
    """128 times the sum of each column's codes: what the zero point of the rows adds to a product."""
    bias: npt.NDArray[np.float32] | None


def pack_columns(
    codes_KN: npt.NDArray[np.int8], scales_N: npt.NDArray[np.float32], bias_N: npt.NDArray[np.float32] | None = None
) -> Packed:
    """Reorder a matrix of codes from -127 to 127."""
    inputs, outputs = codes_KN.shape
    missing = -inputs % _GROUP, -outputs % PANEL
    if any(missing):
        codes_KN = np.pad(codes_KN, [(0, missing[0]), (0, missing[1])])
        scales_N = np.pad(scales_N, (0, missing[1]))
        bias_N = None if bias_N is None else np.pad(bias_N, (0, missing[1]))
    parts = codes_KN.reshape(-1, _GROUP, codes_KN.shape[1] // PANEL, PANEL)
    packed = np.ascontiguousarray(parts.transpose(2, 0, 3, 1))
    corrections = codes_KN.sum(axis=0, dtype=np.int32) * np.int32(128)
    return Packed(packed, np.ascontiguousarray(scales_N, np.float32), corrections, bias_N)


def interleaved(columns: int) -> npt.NDArray[np.intp]:
    """The order of columns that brings the two halves of a matrix together, a register of each in turn.

    Columns that are there only to fill up are -1.
    """
    half = columns // 2
    padded = np.full(-(-half // _REGISTER) * _REGISTER, -1, np.intp)
    padded[:half] = np.arange(half)
    gates = padded.reshape(-1, _REGISTER)
    ups = np.where(gates < 0, -1, gates + half)
    return np.concatenate([gates, ups], axis=1).ravel()
