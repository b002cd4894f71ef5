"""What a bundle that is not open says of itself: read from its graph file, without its weights."""

from __future__ import annotations

from pathlib import Path

import onnx

from lib.onnx_pieces import read_onnx_header
from ml_service.common.bundle import CHECKPOINT_FILE, GRAPH_FILE, load_architecture
from ml_service.common.errors import BundleRefused
from ml_service.inference.session import GraphInfo, TensorInfo

_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float", onnx.TensorProto.INT64: "int64", onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8", onnx.TensorProto.FLOAT16: "float16",
}  # fmt: skip
"""As ONNX Runtime names them."""


def graph_info(bundle: Path) -> GraphInfo:
    """The graph file's own words. Raises BundleRefused where it is none."""
    if load_architecture(bundle).without_graph:
        return GraphInfo(_checkpoint_metadata(bundle), (), ())
    try:
        header = read_onnx_header(bundle / GRAPH_FILE)
    except ValueError as error:
        raise BundleRefused(str(error)) from error
    return GraphInfo(
        header.metadata_props, tuple(map(_tensor_info, header.inputs)), tuple(map(_tensor_info, header.outputs))
    )


def _checkpoint_metadata(bundle: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open  # only where there is no graph

    try:
        with safe_open(bundle / CHECKPOINT_FILE, framework="np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BundleRefused(f"{CHECKPOINT_FILE} is no checkpoint: truncated or foreign") from error


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_param or int(dimension.dim_value) for dimension in tensor.shape.dim)
    return TensorInfo(value.name, f"tensor({_TYPES.get(tensor.elem_type, 'other')})", shape)
