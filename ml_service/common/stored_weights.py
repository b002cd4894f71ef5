"""How a bundle's graph stores weights: names, orientation and codes; the way there and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lib.quantization import GROUP_SIZE, Nibbles, dequantize_rows, quantize_nibbles, quantize_rows
from ml_service.common.bundle import Precision

PACKED = "+"
"""Stands between the names of weights that lie below each other in one tensor."""
TURNED = ".T"
"""Ends the name of a tensor that lies as (inputs, outputs)."""
CODES, SCALES = ".codes", ".scales"
"""Added to the name for 8-bit codes, and for the scales of the outputs."""
NIBBLES, FACTORS = ".nibbles", ".factors"
"""Added to the name for 4-bit codes (groups, 32, outputs) and the factors (groups, 1, outputs) that expand them."""

Weights = Mapping[str, npt.NDArray[np.float32]]
Tensors = Mapping[str, npt.NDArray[Any]]


def stem_of(names: Sequence[str], is_turned: bool) -> str:
    """The name under which weights are stored together."""
    return PACKED.join(names) + (TURNED if is_turned else "")


def table_tensors(weights: Weights, name: str, precision: Precision) -> Tensors:
    """What is stored for an embedding table, as (outputs, inputs); 8 bit in 4 bit too, since so much hangs on it."""
    if precision == "fp32":
        return {name: weights[name]}
    codes_NK, scales_N = quantize_rows(weights[name])
    return {f"{name}{CODES}": codes_NK, f"{name}{SCALES}": scales_N}


def product_tensors(weights: Weights, names: Sequence[str], precision: Precision) -> Tensors:
    """What is stored for matrices below each other, as (inputs, outputs). Raises ValueError where it cannot be."""
    weight_NK, stem = np.concatenate([weights[name] for name in names]), stem_of(names, is_turned=True)
    if precision == "fp32":
        return {stem: weight_NK.T}
    if precision == "int8":
        codes_NK, scales_N = quantize_rows(weight_NK)
        return {f"{stem}{CODES}": codes_NK.T, f"{stem}{SCALES}": scales_N}
    quantized = quantize_nibbles(weight_NK)
    nibbles_GIN = quantized.nibbles_NK.T.reshape(-1, GROUP_SIZE, len(weight_NK)).astype(ml_dtypes.int4)
    factors_G1N = quantized.factors_NG.T[:, None, :]
    return {f"{stem}{NIBBLES}": nibbles_GIN, f"{stem}{FACTORS}": factors_G1N, f"{stem}{SCALES}": quantized.scales_N}


def weights_of(tensors: Tensors, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Each weight of the given shapes that the tensors hold, in fp32 and as (outputs, inputs)."""
    for name in tensors:
        stem = name.removesuffix(CODES).removesuffix(NIBBLES)
        names = stem.removesuffix(TURNED).split(PACKED)
        if all(part in shapes for part in names):
            ends = np.cumsum([shapes[part][0] for part in names])
            yield from zip(names, np.split(_expanded(tensors, stem, name), ends[:-1]), strict=True)


def _expanded(tensors: Tensors, stem: str, name: str) -> npt.NDArray[np.float32]:
    if name.endswith(NIBBLES):
        nibbles_GIN, factors_G1N = tensors[name].astype(np.int8), tensors[f"{stem}{FACTORS}"]
        nibbles_NK = nibbles_GIN.reshape(-1, nibbles_GIN.shape[2]).T
        scales_N = tensors[f"{stem}{SCALES}"]
        return dequantize_rows(Nibbles(nibbles_NK, factors_G1N[:, 0].T, scales_N).expanded(), scales_N)
    values = tensors[name].T if stem.endswith(TURNED) else tensors[name]
    return dequantize_rows(values, tensors[f"{stem}{SCALES}"]) if name.endswith(CODES) else values
