"""8-bit weights in blocks that share a scale, as ONNX Runtime's MatMulNBits reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ZERO_POINT = 128
_LARGEST = 127.0


def quantize_blocks(
    weight_NK: npt.NDArray[np.float32], block_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Quantise each run of `block_size` inputs of each output by its largest magnitude.

    Returns codes (outputs, blocks, block_size) and scales (outputs, blocks): weight = (code - 128) * scale.
    Raises ValueError where the inputs are no multiple of the block size or a weight is not finite.
    """
    outputs, inputs = weight_NK.shape
    if inputs % block_size:
        raise ValueError(f"{inputs} inputs are no multiple of the block size {block_size}")
    if not np.isfinite(weight_NK).all():
        raise ValueError("a weight is not finite: the run has diverged and cannot be exported")
    blocks = weight_NK.reshape(outputs, inputs // block_size, block_size)
    scales = (np.abs(blocks).max(axis=2) / _LARGEST).astype(np.float32)
    divisors = np.where(scales == 0, np.float32(1), scales)[..., None]
    codes = np.rint(blocks / divisors) + ZERO_POINT
    return codes.astype(np.uint8), scales


def dequantize_blocks(codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The weights that the codes stand for, shape (outputs, inputs)."""
    values = (codes.astype(np.float32) - ZERO_POINT) * scales[..., None]
    return values.reshape(codes.shape[0], -1)
