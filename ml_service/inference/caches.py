"""Keys and values of all slots, in the form that the graph's attention reads and writes in place."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from lib.memory import pages_as_needed
from ml_service.common.bundle import CACHE_KINDS, Architecture, past_name, present_name
from ml_service.inference.fused_graph import CACHE_BLOCK, cache_block_bytes, cache_name

CachePrecision = Literal["fp32", "int8"]
CacheBlock = list[npt.NDArray[Any]]
"""A copy of some tokens' keys and values; only the cache that it comes from knows its form."""


class Caches(Protocol):
    """One kind of cache for a session."""

    places: int
    """The fewest places that a row of a step has in the grid of attention."""
    shares_steps: bool
    """As `Session` says."""

    def bind(self, binding: onnxruntime.IOBinding, first: int, width: int) -> None:
        """Bind the graph's cache inputs and outputs to a range of slots."""

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Copy what is kept of the tokens from `start` to `stop`."""

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """Put a copy into a slot, from position `start` on."""

    def close(self) -> None:
        """Give the memory back."""


def spare_tokens(precision: CachePrecision, chunk: int) -> int:
    """Tokens beyond its context that a slot has room for: in fp32 right-padded rows reach so far."""
    return chunk if precision == "fp32" else CACHE_BLOCK


def bytes_per_token(architecture: Architecture, precision: CachePrecision) -> int:
    """What the keys and values of a token take."""
    heads = architecture.layers * architecture.key_value_heads
    if precision == "fp32":
        return 2 * heads * architecture.head_size * 4
    return heads * cache_block_bytes(architecture.head_size) // CACHE_BLOCK


def make_caches(architecture: Architecture, precision: CachePrecision, slots: int, chunk: int) -> Caches:
    """Room for as many slots, each as long as the context."""
    if precision == "int8":
        return RoundedCaches(architecture, slots)
    return PlainCaches(architecture, slots, chunk)


class PlainCaches:
    """Two arrays a layer, keys and values, in fp32: (slots, key-value heads, capacity, head size)."""

    shares_steps = False
    places = 2
    """A row of one token is given to attention twice: a single query takes another way through ONNX Runtime, whose sums
    differ in the last bit, and rounded activations make a different number of that. So a token's logits are the same to
    the bit whether it was read in a chunk, alone, or as a guess among others. What the second one leaves in the cache
    is overwritten by the next token."""

    def __init__(self, architecture: Architecture, slots: int, chunk: int) -> None:
        capacity = architecture.context_length + spare_tokens("fp32", chunk)
        shape = (slots, architecture.key_value_heads, capacity, architecture.head_size)
        self._arrays = [pages_as_needed(shape, np.float32) for _ in range(2 * architecture.layers)]

    def bind(self, binding: onnxruntime.IOBinding, first: int, width: int) -> None:
        """Past and present are the same memory."""
        for index, array in enumerate(self._arrays):
            layer, kind = index // 2, CACHE_KINDS[index % 2]
            part = array[first : first + width]
            for bind, name_of in ((binding.bind_input, past_name), (binding.bind_output, present_name)):
                bind(name_of(layer, kind), "cpu", 0, np.float32, part.shape, part.ctypes.data)

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """An array (key-value heads, tokens, head size) for each layer and kind."""
        return [array[slot, :, start:stop].copy() for array in self._arrays]

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """As `Caches` says."""
        for array, part in zip(self._arrays, block, strict=True):
            array[slot, :, start : start + part.shape[1]] = part

    def close(self) -> None:
        """As `Caches` says."""
        self._arrays.clear()


class RoundedCaches:
    """An array a layer in 8 bit, in blocks of 16 tokens as `kernels/attention.h` lays them out.

    (slots, key-value heads, blocks, bytes of a block). Each token is rounded by itself, for each head by a scale of
    its own.
    """

    shares_steps = True
    places = 1

    def __init__(self, architecture: Architecture, slots: int) -> None:
        blocks = -(-architecture.context_length // CACHE_BLOCK)
        shape = (slots, architecture.key_value_heads, blocks, cache_block_bytes(architecture.head_size))
        self._arrays = [pages_as_needed(shape, np.uint8) for _ in range(architecture.layers)]

    def bind(self, binding: onnxruntime.IOBinding, first: int, width: int) -> None:
        """The graph writes into its input."""
        for layer, array in enumerate(self._arrays):
            part = array[first : first + width]
            binding.bind_input(cache_name(layer), "cpu", 0, np.uint8, part.shape, part.ctypes.data)

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """An array (key-value heads, blocks, bytes of a block) for each layer."""
        assert start % CACHE_BLOCK == stop % CACHE_BLOCK == 0, "only whole blocks can be copied: this is a bug"
        return [array[slot, :, start // CACHE_BLOCK : stop // CACHE_BLOCK].copy() for array in self._arrays]

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """As `Caches` says."""
        assert start % CACHE_BLOCK == 0, "only whole blocks can be copied: this is a bug"
        first = start // CACHE_BLOCK
        for array, part in zip(self._arrays, block, strict=True):
            array[slot, :, first : first + part.shape[1]] = part

    def close(self) -> None:
        """As `Caches` says."""
        self._arrays.clear()
