"""Open a bundle's graph with ONNX Runtime: as it is, or rewritten for the compiled operators."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime

from lib.onnx_pieces import load_in_pieces
from lib.processor import saturates_8_bit_products
from ml_service.common.bundle import CACHE_KINDS, STEP_INPUTS, Architecture, past_name
from ml_service.common.errors import BundleRefused
from ml_service.inference.caches import CachePrecision
from ml_service.inference.fused_graph import FusedGraph

_PROVIDERS = ["CPUExecutionProvider"]
_AWAKE_US = "500"
"""Outlasts the time between two steps; asleep at once (`session.force_spinning_stop`) a client has 0.9 of the speed."""


def open_graph(path: Path, architecture: Architecture, threads: int) -> onnxruntime.InferenceSession:
    """The graph with ONNX Runtime's own operators. Raises BundleRefused where it is none of ours."""
    try:
        session = onnxruntime.InferenceSession(str(path), _options(threads), providers=_PROVIDERS)
    except Exception as error:  # onnxruntime raises classes of its C extension
        raise _no_graph(path) from error
    _check_inputs(path, {value.name for value in session.get_inputs()}, architecture)
    return session


def open_fused_graph(
    path: Path, architecture: Architecture, threads: int, cache_precision: CachePrecision, library: Path
) -> onnxruntime.InferenceSession:
    """The graph with the operators of a library where they fit. Raises BundleRefused where it is none of ours."""
    try:
        model = load_in_pieces(path)
    except (ValueError, OSError) as error:
        raise _no_graph(path) from error
    _check_inputs(path, {value.name for value in model.graph.input}, architecture)
    try:
        fused = FusedGraph(model, threads, fuse_attention=cache_precision == "int8")
        options = _options(threads)
        options.register_custom_ops_library(str(library))
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in fused.arrays.values()]
        options.add_external_initializers(list(fused.arrays), values)
        return onnxruntime.InferenceSession(fused.model.SerializeToString(), options, providers=_PROVIDERS)
    except Exception as error:
        raise _no_graph(path) from error


def _options(threads: int) -> onnxruntime.SessionOptions:
    # Read by ONNX Runtime when it makes the attention nodes: its tiled attention takes 1.4 to 2.1 times as long here.
    os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its threads wait awake for the next step, and no longer: else those of two open models would hold up each other's.
    options.add_session_config_entry("session.intra_op.spin_duration_us", _AWAKE_US)
    if saturates_8_bit_products():
        # Both factors unsigned: slower, and exact on every processor.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _check_inputs(path: Path, found: set[str], architecture: Architecture) -> None:
    names = STEP_INPUTS | {past_name(layer, kind) for layer in range(architecture.layers) for kind in CACHE_KINDS}
    if found != names:
        raise BundleRefused(f"{path.name} is a foreign graph: its inputs are {', '.join(sorted(found)) or 'none'}")


def _no_graph(path: Path) -> BundleRefused:
    return BundleRefused(f"{path.name} is no graph that ONNX Runtime can load: truncated or foreign")
