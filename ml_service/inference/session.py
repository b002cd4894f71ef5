"""One step of the network on ONNX Runtime, with the KV cache of all slots kept in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from ml_service.common.bundle import (
    CACHE_KINDS,
    GRAPH_FILE,
    INPUT_IDS,
    LAST_POSITIONS,
    LOGIT_ROWS,
    LOGITS,
    MAX_TOTAL_LENGTH,
    QUERY_LENGTHS,
    Architecture,
    past_name,
    present_name,
)
from ml_service.common.errors import BundleRefused, ModelFailure

Logits = npt.NDArray[np.float32]
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


@dataclass(frozen=True)
class Row:
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

    What is not covered: a step costs the work of the longest row for every slot between its lowest and its highest.
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
        self._caches = [np.zeros(shape, np.float32) for _ in range(2 * architecture.layers)]
        self.cache_bytes_per_token = sum(cache[0, :, 0].nbytes for cache in self._caches)
        self._bindings: dict[tuple[int, int], onnxruntime.IOBinding] = {}

    def run(self, rows: Sequence[Row]) -> Logits:
        """One step of all rows, as `Session` says."""
        first = min(row.slot for row in rows)
        width = max(row.slot for row in rows) - first + 1
        length = max(len(row.token_ids) for row in rows)
        assert length <= self.chunk, "a row is longer than the chunk: this is a bug"
        ids = np.zeros((width, length), np.int64)
        query_lengths, last_positions = np.zeros(width, np.int32), np.zeros(width, np.int32)
        wanted: list[int] = []
        for row in rows:
            index, count = row.slot - first, len(row.token_ids)
            ids[index, :count] = row.token_ids
            query_lengths[index], last_positions[index] = count, row.position + count - 1
            start = index * length
            wanted.extend(range(start, start + count) if row.wants_all else (start + count - 1,))
        inputs: dict[str, npt.NDArray[Any]] = {
            INPUT_IDS: ids,
            QUERY_LENGTHS: query_lengths,
            LAST_POSITIONS: last_positions,
            # An upper bound, and the same in every step: the sums must not depend on the neighbours' lengths.
            MAX_TOTAL_LENGTH: np.array(self._capacity, np.int32),
            LOGIT_ROWS: np.array(wanted, np.int64),
        }
        return self._run(first, width, inputs)

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

    def _run(self, first: int, width: int, inputs: dict[str, npt.NDArray[Any]]) -> Logits:
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


def _open_graph(path: Path, architecture: Architecture, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise BundleRefused(f"{path.name} is no graph that ONNX Runtime can load: truncated or foreign") from error
    names = {INPUT_IDS, QUERY_LENGTHS, LAST_POSITIONS, MAX_TOTAL_LENGTH, LOGIT_ROWS} | {
        past_name(layer, kind) for layer in range(architecture.layers) for kind in CACHE_KINDS
    }
    found = {value.name for value in session.get_inputs()}
    if found != names:
        raise BundleRefused(f"{path.name} is a foreign graph: its inputs are {', '.join(sorted(found)) or 'none'}")
    return session
