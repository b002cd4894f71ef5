"""One step of the network on ONNX Runtime, with the KV cache of all slots kept in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
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
    STEP_INPUTS,
    Architecture,
)
from ml_service.common.errors import BundleRefused, ModelFailure
from ml_service.inference.caches import CacheBlock, bytes_per_token, make_caches
from ml_service.inference.graph_session import open_fused_graph, open_graph
from ml_service.inference.operators import PLAIN, Arithmetic, Logits, NatsOf, nats_by

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
    nats: NatsOf

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
        self.nats = nats_by(library)
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
        self._caches = make_caches(architecture, precision, slots, chunk)
        self.cache_bytes_per_token = bytes_per_token(architecture, precision)
        self.shares_steps = self._caches.shares_steps
        most_places = slots * max(chunk, self._caches.places)
        self._buffers = {
            value.name: np.empty(most_places, np.int64 if value.type == "tensor(int64)" else np.int32)
            for value in self.graph.inputs
            if value.name in STEP_INPUTS
        }
        """Of what a step tells; not all of it is asked for by every graph."""
        self._bounds: dict[tuple[int, int], _Bound] = {}
        self._logits = np.empty((slots, architecture.vocabulary_size), np.float32)

    def run(self, rows: Sequence[Row]) -> Logits:
        """One step of all rows, as `Session` says."""
        assert all(len(row.token_ids) <= self.chunk for row in rows), "a row is longer than the chunk: this is a bug"
        slots = [row.slot for row in rows]
        first, width = min(slots), max(slots) - min(slots) + 1
        bound = self._bound(first, width)
        inputs = step_inputs(rows, first, width, self._caches.places)
        for name, buffer in self._buffers.items():
            bound.take(name, buffer, inputs[name])
        wanted, vocabulary = len(inputs[LOGIT_ROWS]), self.architecture.vocabulary_size
        # Fresh memory for the logits of a step costs as much as a tenth of the step: its pages have to be zeroed.
        if wanted > len(self._logits):
            self._logits = np.empty((wanted, vocabulary), np.float32)
        logits = self._logits[:wanted]
        bound.give(LOGITS, logits)
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise ModelFailure("the runtime refused the input") from error
        return logits

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Copy a piece of a slot's cache."""
        return self._caches.copy_out(slot, start, stop)

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """Put a copied piece into a slot's cache."""
        self._caches.copy_in(slot, start, block)

    def close(self) -> None:
        """Drop the session and its cache."""
        self._bounds.clear()
        self._caches.close()
        del self._session

    def _bound(self, first: int, width: int) -> _Bound:
        """The cache of a range of slots, bound once for each range."""
        bound = self._bounds.get((first, width))
        if bound is None:
            bound = self._bounds[first, width] = _Bound(self._session.io_binding())
            self._caches.bind(bound.binding, first, width)
        return bound


@dataclass(frozen=True)
class _Bound:
    """What one range of slots is bound to. To bind costs several times what it costs to copy a step's few numbers."""

    binding: onnxruntime.IOBinding
    places: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """Address and shape of inputs and outputs, as they were bound last."""

    def take(self, name: str, buffer: npt.NDArray[Any], value: npt.NDArray[Any]) -> None:
        """Have an input read from a buffer that stays where it is."""
        buffer[: value.size] = value.reshape(-1)
        self._bind(self.binding.bind_input, name, buffer, value.shape)

    def give(self, name: str, array: npt.NDArray[Any]) -> None:
        """Have an output written into an array."""
        self._bind(self.binding.bind_output, name, array, array.shape)

    def _bind(self, bind: Callable[..., None], name: str, memory: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
        place = memory.ctypes.data, shape
        if self.places.get(name) != place:
            bind(name, "cpu", 0, memory.dtype.type, shape, place[0])
            self.places[name] = place


def step_inputs(rows: Sequence[Row], first: int, width: int, fewest: int) -> Inputs:
    """The inputs of a step for the slots from `first` on.

    Tokens lie flat, row by row; the grid of attention (slots, places) tells where. Each row has at least the `fewest`
    places in it; its last token comes again where it has fewer tokens.
    """
    count = len(rows)
    counts = np.fromiter((len(row.token_ids) for row in rows), np.int64, count)
    slots = np.fromiter((row.slot for row in rows), np.int64, count) - first
    positions = np.fromiter((row.position for row in rows), np.int32, count)
    wants_all = np.fromiter((row.wants_all for row in rows), np.bool_, count)
    ends, filled = counts.cumsum(), np.maximum(counts, fewest).astype(np.int32)
    tokens, length = np.arange(ends[-1]), int(filled.max())
    places = tokens + np.repeat(slots * length - (ends - counts), counts)
    grid = np.zeros(width * length, np.int64)
    grid[places] = tokens
    for place in range(1, fewest):
        is_short = counts <= place
        grid[slots[is_short] * length + place] = ends[is_short] - 1
    query_lengths, last_positions = np.zeros(width, np.int32), np.zeros(width, np.int32)
    query_lengths[slots], last_positions[slots] = filled, positions + filled - 1
    is_wanted = np.repeat(wants_all, counts)
    is_wanted[ends - 1] = True
    return {
        INPUT_IDS: np.fromiter(chain.from_iterable(row.token_ids for row in rows), np.int64, len(tokens)),
        GRID: grid.reshape(width, length),
        PLACES: places,
        QUERY_LENGTHS: query_lengths,
        LAST_POSITIONS: last_positions,
        MAX_TOTAL_LENGTH: np.array(last_positions.max() + 2, np.int32),
        LOGIT_ROWS: np.flatnonzero(is_wanted),
    }
