"""One step of the network on ONNX Runtime, with the KV cache of all slots kept in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from ml_service.common.bundle import (
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
)
from ml_service.common.errors import BundleRefused, ModelFailure
from ml_service.inference.caches import CacheBlock, bytes_per_token, make_caches
from ml_service.inference.graph_session import open_fused_graph, open_graph
from ml_service.inference.operators import PLAIN, Arithmetic

Logits = npt.NDArray[np.float32]
Inputs = dict[str, npt.NDArray[Any]]


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
    shares_steps: bool
    """Whether a step with rows of all lengths costs what its tokens cost, and not the longest row times the rows."""
    architecture: Architecture
    graph: GraphInfo

    def run(self, rows: Sequence[Row]) -> Logits:
        """Do one step; returns the wanted logits row by row, shape (wanted, vocabulary), valid until the next step.

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

    A token's logits are the same to the bit in whatever step it comes.
    """

    def __init__(
        self,
        bundle: Path,
        architecture: Architecture,
        slots: int,
        chunk: int,
        threads: int,
        arithmetic: Arithmetic = PLAIN,
    ) -> None:
        """Raises BundleRefused, in words, where the file is no graph of ours."""
        self.architecture, self.slots, self.chunk = architecture, slots, chunk
        if architecture.without_graph:
            raise BundleRefused(f"{architecture.without_graph}: set ML_SERVICE_RUNTIME=torch to serve its checkpoint")
        library, precision = arithmetic
        path = bundle / GRAPH_FILE
        if library is None:
            self._session = open_graph(path, architecture, threads)
        else:
            self._session = open_fused_graph(path, architecture, threads, precision, library)
        self.graph = GraphInfo(
            dict(self._session.get_modelmeta().custom_metadata_map),
            tuple(TensorInfo(v.name, v.type, tuple(v.shape)) for v in self._session.get_inputs()),
            tuple(TensorInfo(v.name, v.type, tuple(v.shape)) for v in self._session.get_outputs()),
        )
        self._inputs = frozenset(value.name for value in self.graph.inputs)
        """Not all that a step can tell is asked for by every graph."""
        self._caches = make_caches(architecture, precision, slots, chunk)
        self.cache_bytes_per_token = bytes_per_token(architecture, precision)
        self.shares_steps = self._caches.shares_steps
        self._bindings: dict[tuple[int, int], onnxruntime.IOBinding] = {}
        self._logits = np.empty((slots, architecture.vocabulary_size), np.float32)

    def run(self, rows: Sequence[Row]) -> Logits:
        """One step of all rows, as `Session` says."""
        slots = [row.slot for row in rows]
        first, width = min(slots), max(slots) - min(slots) + 1
        if all(len(row.token_ids) == 1 for row in rows):
            return self._run(first, width, single_token_step(rows, first, width, self._caches.places))
        assert all(len(row.token_ids) <= self.chunk for row in rows), "a row is longer than the chunk: this is a bug"
        return self._run(first, width, ragged_step(rows, first, width, self._caches.places))

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Copy a piece of a slot's cache."""
        return self._caches.copy_out(slot, start, stop)

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """Put a copied piece into a slot's cache."""
        self._caches.copy_in(slot, start, block)

    def close(self) -> None:
        """Drop the session and its cache."""
        self._bindings.clear()
        self._caches.close()
        del self._session

    def _run(self, first: int, width: int, inputs: Inputs) -> Logits:
        binding = self._binding(first, width)
        for name, value in inputs.items():
            if name in self._inputs:
                binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        wanted = len(inputs[LOGIT_ROWS])
        # Fresh memory for the logits of a step costs as much as a tenth of the step: its pages have to be zeroed.
        logits = (
            self._logits[:wanted] if wanted <= self.slots else np.empty((wanted, self._logits.shape[1]), np.float32)
        )
        binding.bind_output(LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise ModelFailure("the runtime refused the input") from error
        return logits

    def _binding(self, first: int, width: int) -> onnxruntime.IOBinding:
        """The cache of a range of slots, bound once for each range."""
        binding = self._bindings.get((first, width))
        if binding is None:
            binding = self._bindings[first, width] = self._session.io_binding()
            self._caches.bind(binding, first, width)
        return binding


def single_token_step(rows: Sequence[Row], first: int, width: int, fewest: int) -> Inputs:
    """The inputs of a step with one token for each row: what `ragged_step` makes, without a loop."""
    count = len(rows)
    query_lengths = np.zeros(width, np.int32)
    positions = np.fromiter((row.position for row in rows), np.int32, count)
    indices = np.fromiter((row.slot for row in rows), np.int64, count) - first
    grid, last_positions = np.zeros((width, fewest), np.int64), np.zeros(width, np.int32)
    grid[indices] = np.arange(count)[:, None]
    places = indices * fewest
    query_lengths[indices] = fewest
    last_positions[indices] = positions + (fewest - 1)
    ids = np.fromiter((row.token_ids[0] for row in rows), np.int64, count)
    return _named(ids, grid, places, query_lengths, last_positions, np.arange(count))


def ragged_step(rows: Sequence[Row], first: int, width: int, fewest: int) -> Inputs:
    """The inputs of a step for the slots from `first` on, whatever tokens each row has.

    Each row has at least the `fewest` places in the grid; its last token comes again where it has fewer.
    """
    counts = [len(row.token_ids) for row in rows]
    length = max(fewest, *counts)
    grid, places = np.zeros((width, length), np.int64), np.empty(sum(counts), np.int64)
    query_lengths, last_positions = np.zeros(width, np.int32), np.zeros(width, np.int32)
    ids: list[int] = []
    wanted: list[int] = []
    for row, count in zip(rows, counts, strict=True):
        index, start, end = row.slot - first, len(ids), len(ids) + count
        filled = max(fewest, count)
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
