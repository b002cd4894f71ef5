"""What training costs and what the machine could do: floating-point operations a token, peak rates, MFU, memory."""

from __future__ import annotations

import resource
import time

import torch
from transformers import PretrainedConfig

_DENSE_BF16_FLOPS = {
    "H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10": 125e12, "4090": 165e12,
}  # fmt: skip
"""Peaks without sparsity, from the vendors' data sheets."""
_PRODUCT_SIZE = (4096, 512, 512)
_MATRIX_SIZE = 1536
_MIB = 1 << 20


def flops_per_token(config: PretrainedConfig, matmul_parameters: int, window: int) -> float:
    """Forward and backward, as PaLM counts (Chowdhery et al. 2022, appendix B).

    6 a weight, and 12 * layers * width * window for attention, which is causal, so half of the window is seen.
    `matmul_parameters` are those of matrices that a token is multiplied with: the head counts, a table of embeddings
    does not.
    """
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    return 6.0 * matmul_parameters + 12.0 * float(config.num_hidden_layers * width) * window / 2


def matmul_parameters(model: torch.nn.Module, config: PretrainedConfig) -> int:
    """The weights of all matrices that a token is multiplied with; tied embeddings are the head."""
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    embeddings = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return matrices - embeddings


def peak_flops(dtype: torch.dtype) -> float | None:
    """Operations a second of all devices of this process; measured on a processor, None for a GPU that is not known."""
    if not torch.cuda.is_available():
        return _measured_flops(dtype)
    name = torch.cuda.get_device_name()
    return next((flops for part, flops in _DENSE_BF16_FLOPS.items() if part in name), None)


def bf16_gain() -> float:
    """How much faster than fp32 a product of the size that training has is in bf16 on this processor."""
    return _seconds_of_product(torch.float32) / _seconds_of_product(torch.bfloat16)


def peak_memory_mib() -> float:
    """The most that this process has held: of the GPU where it has one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measured_flops(dtype: torch.dtype) -> float:
    matrix = torch.ones(_MATRIX_SIZE, _MATRIX_SIZE, dtype=dtype)
    return 2.0 * _MATRIX_SIZE**3 / _best_seconds(matrix, matrix)


def _seconds_of_product(dtype: torch.dtype) -> float:
    rows, inner, columns = _PRODUCT_SIZE
    return _best_seconds(torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype))


def _best_seconds(left: torch.Tensor, right: torch.Tensor, turns: int = 10) -> float:
    """The best of some products: a processor may have bf16 and be slower with it."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return min(seconds)
