"""The compiled operators: whether they are there, and whether this processor can run them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lib.processor import processor_flags
from lib.scores import nats_of
from ml_service.common.bundle import Architecture, Precision
from ml_service.common.errors import BundleRefused
from ml_service.inference.caches import CachePrecision
from ml_service.inference.fused_graph import fits_cache

LIBRARY_NAME = "_operators"
Logits = npt.NDArray[np.float32]
NatsOf = Callable[[Logits, Sequence[int], Sequence[int]], npt.NDArray[np.float64]]
"""From logits (tokens, vocabulary), targets and likeliest tokens to nats (tokens,); the logits may be overwritten."""
NEEDED_FLAGS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma"})
"""What `kernels/` is compiled for (`pyproject.toml` names the same)."""


def compiled_operators() -> Path | None:
    """The library to register with ONNX Runtime; None where a compiler or the processor's instructions were missing.

    It is made by `pip install` from `kernels/`. Everything works without it, on ONNX Runtime's own operators.
    """
    return library_file() if processor_flags() >= NEEDED_FLAGS else None


def library_file() -> Path | None:
    """The library, whether this processor can run it or not."""
    candidates = (Path(__file__).with_name(LIBRARY_NAME + suffix) for suffix in EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def nats_by(library: Path | None) -> NatsOf:
    """The compiled way to the likelihood of tokens, three times as fast; NumPy's where there is no library."""
    if library is None:
        return nats_of
    compiled = ctypes.CDLL(str(library)).ml_service_nats
    compiled.restype = None

    def nats(logits_TV: Logits, targets: Sequence[int], bests: Sequence[int]) -> npt.NDArray[np.float64]:
        assert logits_TV.flags.c_contiguous, "rows lie one behind the other"
        chosen, likeliest = np.asarray(targets, np.int64), np.asarray(bests, np.int64)
        found_T = np.empty(len(chosen), np.float64)
        sizes = map(ctypes.c_int64, logits_TV.shape)
        arrays = (ctypes.c_void_p(array.ctypes.data) for array in (chosen, likeliest, found_T))
        compiled(ctypes.c_void_p(logits_TV.ctypes.data), *sizes, *arrays)
        return found_T

    return nats


class Arithmetic(NamedTuple):
    """How a session computes."""

    library: Path | None
    """The compiled operators; None for ONNX Runtime's own."""
    cache_precision: CachePrecision


PLAIN = Arithmetic(None, "fp32")


def choose_arithmetic(
    architecture: Architecture, weights: Precision, wish: CachePrecision | None, library: Path | None
) -> Arithmetic:
    """The compiled operators for weights in 8 or 4 bit or a cache in 8 bit, which is the default beside such weights.

    Raises BundleRefused, in words, where a cache in 8 bit is wished for and cannot be.
    """
    can_round = library is not None and fits_cache(architecture.head_size)
    if wish == "int8" and not can_round:
        reason = (
            "the compiled operators: a compiler at installation, a processor with AVX512-VNNI, "
            "ML_SERVICE_RUNTIME=onnx and ML_SERVICE_COMPILED_OPERATORS=true"
            if library is None
            else f"heads whose size is a multiple of 16 and at most 256; these have {architecture.head_size}"
        )
        raise BundleRefused(f"ML_SERVICE_CACHE_PRECISION=int8 cannot be had without {reason}")
    is_rounded = weights != "fp32"
    precision: CachePrecision = wish or ("int8" if is_rounded and can_round else "fp32")
    return Arithmetic(library if is_rounded or precision == "int8" else None, precision)
