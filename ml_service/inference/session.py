"""One step of the network on ONNX Runtime, with the KV cache of all slots kept in place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from lib.memory import pages_as_needed
from lib.processor import saturates_8_bit_products
from ml_service.common.bundle import (
    CACHE_KINDS,
    GRAPH_FILE,
    GRID,
    INPUT_IDS,
    LAST_POSITIONS,
    LOGIT_ROWS,
    LOGITS,
    MAX_TOTAL_LENGTH,
    PLACES,
    QUERY_LENGTHS,
    Architecture,
    past_name,
    present_name,
)
from ml_service.common.errors import BundleRefused, ModelFailure

FEWEST_PLACES = 2
"""A row of one token is given to attention twice: a single query takes another way through ONNX Runtime, whose sums
differ in the last bit, and rounded activations make a different number of that. So a token's logits are the same to
the bit whether it was read in a chunk, alone, or as a guess among others. What the second one leaves in the cache is
overwritten by the next token."""
Logits = npt.NDArray[np.float32]
Inputs = dict[str, npt.NDArray[Any]]
CacheBlock = list[npt.NDArray[Any]]
"""A copy of some tokens' keys and values, an array for each layer and kind: (key-value heads, tokens, head size)."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the graph; names stand for dynamic axes."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphInfo:
    """What the loaded graph file says of itself."""

    metadata_props: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class Row(NamedTuple):
    """One slot's share of a step."""

    slot: int
    position: int
    """Tokens that the slot's cache holds already and keeps."""
    token_ids: Sequence[int]
    """The next ones; at least one, at most the chunk."""
    wants_all: bool = False
    """Logits after each token rather than after the last one."""


class Session(Protocol):
    """What the decode loop needs of a runtime."""

    slots: int
    chunk: int
    """The most tokens that a row may have in a step."""
    cache_bytes_per_token: int
    """What a token's keys and values take; 0 where they cannot be copied."""
    architecture: Architecture
    graph: GraphInfo

    def run(self, rows: Sequence[Row]) -> Logits:
        """Do one step; returns the wanted logits row by row, shape (wanted, vocabulary).

        Raises ModelFailure where the runtime refuses the input.
        """

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Copy keys and values of the tokens from `start` to `stop` out of a slot's cache."""

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """Put what `copy_out` gave into a slot's cache, from position `start` on."""

    def close(self) -> None:
        """Give the memory back; the session is of no use after that."""


def prefill(session: Session, slot: int, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Read a prompt into an empty slot, chunk by chunk; the logits after its last token, shape (vocabulary,)."""
    assert token_ids, "there is nothing to read: this is a bug"
    for position in range(0, len(token_ids), session.chunk):
        logits = session.run([Row(slot, position, token_ids[position : position + session.chunk])])
    return np.asarray(logits[0])


class OnnxSession:
    """The graph of a bundle, its cache bound once and written in place.

    A token's logits are the same to the bit in whatever step it comes, as `FEWEST_PLACES` says.
    """

    def __init__(self, bundle: Path, architecture: Architecture, slots: int, chunk: int, threads: int) -> None:
        """Raises BundleRefused where the file is no graph of ours, in words."""
        self.architecture, self.slots, self.chunk = architecture, slots, chunk
        if architecture.without_graph:
            raise BundleRefused(f"{architecture.without_graph}: set ML_SERVICE_RUNTIME=torch to serve its checkpoint")
        self._session = _open_graph(bundle / GRAPH_FILE, architecture, threads)
        self.graph = GraphInfo(
            dict(self._session.get_modelmeta().custom_metadata_map),
            tuple(TensorInfo(v.name, v.type, tuple(v.shape)) for v in self._session.get_inputs()),
            tuple(TensorInfo(v.name, v.type, tuple(v.shape)) for v in self._session.get_outputs()),
        )
        # A right-padded row may reach past the context by the length of a chunk.
        self._capacity = architecture.context_length + chunk
        shape = (slots, architecture.key_value_heads, self._capacity, architecture.head_size)
        self._caches = [pages_as_needed(shape) for _ in range(2 * architecture.layers)]
        self.cache_bytes_per_token = architecture.cache_bytes_per_token
        self._bindings: dict[tuple[int, int], onnxruntime.IOBinding] = {}

    def run(self, rows: Sequence[Row]) -> Logits:
        """One step of all rows, as `Session` says."""
        slots = [row.slot for row in rows]
        first, width = min(slots), max(slots) - min(slots) + 1
        if all(len(row.token_ids) == 1 for row in rows):
            return self._run(first, width, single_token_step(rows, first, width))
        assert all(len(row.token_ids) <= self.chunk for row in rows), "a row is longer than the chunk: this is a bug"
        return self._run(first, width, ragged_step(rows, first, width))

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Copy a piece of a slot's cache."""
        return [cache[slot, :, start:stop].copy() for cache in self._caches]

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """Put a copied piece into a slot's cache."""
        for cache, part in zip(self._caches, block, strict=True):
            cache[slot, :, start : start + part.shape[1]] = part

    def close(self) -> None:
        """Drop the session and its cache."""
        self._bindings.clear()
        self._caches.clear()
        del self._session

    def _run(self, first: int, width: int, inputs: Inputs) -> Logits:
        binding = self._binding(first, width)
        for name, value in inputs.items():
            binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        logits = np.empty((len(inputs[LOGIT_ROWS]), self.architecture.vocabulary_size), np.float32)
        binding.bind_output(LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise ModelFailure("the runtime refused the input") from error
        return logits

    def _binding(self, first: int, width: int) -> onnxruntime.IOBinding:
        """Cache inputs and outputs of a range of slots, bound to the same memory; made once for each range."""
        binding = self._bindings.get((first, width))
        if binding is None:
            binding = self._bindings[first, width] = self._session.io_binding()
            for index, cache in enumerate(self._caches):
                layer, kind = index // 2, CACHE_KINDS[index % 2]
                part = cache[first : first + width]
                for bind, name_of in ((binding.bind_input, past_name), (binding.bind_output, present_name)):
                    bind(name_of(layer, kind), "cpu", 0, np.float32, part.shape, part.ctypes.data)
        return binding


def single_token_step(rows: Sequence[Row], first: int, width: int) -> Inputs:
    """The inputs of a step with one token for each row: what `ragged_step` makes, without a loop."""
    count = len(rows)
    query_lengths = np.zeros(width, np.int32)
    positions = np.fromiter((row.position for row in rows), np.int32, count)
    indices = np.fromiter((row.slot for row in rows), np.int64, count) - first
    grid, last_positions = np.zeros((width, FEWEST_PLACES), np.int64), np.zeros(width, np.int32)
    grid[indices] = np.arange(count)[:, None]
    places = indices * FEWEST_PLACES
    query_lengths[indices] = FEWEST_PLACES
    last_positions[indices] = positions + (FEWEST_PLACES - 1)
    ids = np.fromiter((row.token_ids[0] for row in rows), np.int64, count)
    return _named(ids, grid, places, query_lengths, last_positions, np.arange(count))


def ragged_step(rows: Sequence[Row], first: int, width: int) -> Inputs:
    """The inputs of a step for the slots from `first` on, whatever tokens each row has."""
    counts = [len(row.token_ids) for row in rows]
    length = max(FEWEST_PLACES, *counts)
    grid, places = np.zeros((width, length), np.int64), np.empty(sum(counts), np.int64)
    query_lengths, last_positions = np.zeros(width, np.int32), np.zeros(width, np.int32)
    ids: list[int] = []
    wanted: list[int] = []
    for row, count in zip(rows, counts, strict=True):
        index, start, end = row.slot - first, len(ids), len(ids) + count
        filled = max(FEWEST_PLACES, count)
        ids.extend(row.token_ids)
        grid[index, :count], grid[index, count:filled] = np.arange(start, end), end - 1
        places[start:end] = np.arange(index * length, index * length + count)
        query_lengths[index], last_positions[index] = filled, row.position + filled - 1
        wanted.extend(range(start, end) if row.wants_all else (end - 1,))
    return _named(np.array(ids, np.int64), grid, places, query_lengths, last_positions, np.array(wanted, np.int64))


def _named(
    ids: npt.NDArray[np.int64],
    grid: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    query_lengths: npt.NDArray[np.int32],
    last_positions: npt.NDArray[np.int32],
    wanted: npt.NDArray[np.int64],
) -> Inputs:
    return {
        INPUT_IDS: ids,
        GRID: grid,
        PLACES: places,
        QUERY_LENGTHS: query_lengths,
        LAST_POSITIONS: last_positions,
        MAX_TOTAL_LENGTH: np.array(last_positions.max() + 2, np.int32),
        LOGIT_ROWS: wanted,
    }


def _open_graph(path: Path, architecture: Architecture, threads: int) -> onnxruntime.InferenceSession:
    # Read by ONNX Runtime when it makes the attention nodes: its tiled attention takes 1.4 to 2.1 times as long here.
    os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if saturates_8_bit_products():
        # Both factors unsigned: slower, and exact on every processor.
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise BundleRefused(f"{path.name} is no graph that ONNX Runtime can load: truncated or foreign") from error
    names = {INPUT_IDS, GRID, PLACES, QUERY_LENGTHS, LAST_POSITIONS, MAX_TOTAL_LENGTH, LOGIT_ROWS} | {
        past_name(layer, kind) for layer in range(architecture.layers) for kind in CACHE_KINDS
    }
    found = {value.name for value in session.get_inputs()}
    if found != names:
        raise BundleRefused(f"{path.name} is a foreign graph: its inputs are {', '.join(sorted(found)) or 'none'}")
    return session
