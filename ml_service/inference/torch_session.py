"""The torch runtime: the same step as `session.py`, one row at a time, with the weights of graph or checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from ml_service.common.bundle import CHECKPOINT_FILE, GRAPH_FILE, Architecture
from ml_service.common.errors import BundleRefused
from ml_service.common.stored_weights import weights_of
from ml_service.inference.caches import CacheBlock
from ml_service.inference.operators import Logits, nats_by
from ml_service.inference.session import GraphInfo, Row, TensorInfo


class TorchSession:
    """transformers' own model with a cache for each slot: slow, plain, and the reference for the other runtime.

    What is not covered: networks that remember otherwise than by keys and values; they do not prove themselves.
    """

    cache_bytes_per_token = 0
    shares_steps = False

    def __init__(self, bundle: Path, architecture: Architecture, slots: int, chunk: int, threads: int) -> None:
        """Raises BundleRefused where the bundle does not hold the weights of this architecture."""
        torch.set_num_threads(threads)
        self.architecture, self.slots, self.chunk = architecture, slots, chunk
        self.nats = nats_by(None)
        self.graph, self._model = _open(bundle, architecture)
        self._caches = [DynamicCache() for _ in range(slots)]

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> Logits:
        """One step of all rows, each alone."""
        wanted = []
        for row in rows:
            cache = self._caches[row.slot]
            if row.position == 0:
                cache = self._caches[row.slot] = DynamicCache()
            elif cache.get_seq_length() > row.position:
                cache.crop(row.position)
            keep = 0 if row.wants_all else 1
            ids = torch.tensor([list(row.token_ids)])
            output = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=keep)
            wanted.append(output.logits[0].float().numpy())
        return np.concatenate(wanted)

    def copy_out(self, slot: int, start: int, stop: int) -> CacheBlock:
        """Not offered: `cache_bytes_per_token` is 0."""
        raise NotImplementedError

    def copy_in(self, slot: int, start: int, block: CacheBlock) -> None:
        """Not offered: `cache_bytes_per_token` is 0."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop the model and the caches."""
        self._caches.clear()
        del self._model


def load_model(bundle: Path, architecture: Architecture) -> PreTrainedModel:
    """transformers' model with a bundle's weights. Raises BundleRefused where they do not fit."""
    return _open(bundle, architecture)[1]


def _open(bundle: Path, architecture: Architecture) -> tuple[GraphInfo, PreTrainedModel]:
    config = AutoConfig.for_model(**architecture.transformers)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    info, weights = (_checkpoint if architecture.without_graph else _graph)(bundle, model)
    state = model.state_dict()
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a shape differs
        raise BundleRefused(f"{bundle.name} does not hold the weights that its configuration names") from error
    # A tied weight is stored once, and whoever shares its memory has got it.
    given = {state[name].data_ptr() for name in weights if name in state}
    if not set(weights) <= set(state) or any(tensor.data_ptr() not in given for tensor in state.values()):
        raise BundleRefused(f"{bundle.name} does not hold the weights that its configuration names")
    return info, model


def _graph(bundle: Path, model: PreTrainedModel) -> tuple[GraphInfo, dict[str, torch.Tensor]]:
    try:
        graph = onnx.load(str(bundle / GRAPH_FILE))
    except Exception as error:  # protobuf and onnx raise classes of their own
        raise BundleRefused(f"{GRAPH_FILE} is no ONNX file: truncated or foreign") from error
    info = GraphInfo(
        {entry.key: entry.value for entry in graph.metadata_props},
        tuple(map(_tensor_info, graph.graph.input)),
        tuple(map(_tensor_info, graph.graph.output)),
    )
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return info, {name: torch.from_numpy(np.array(weight)) for name, weight in weights_of(tensors, shapes)}


def _checkpoint(bundle: Path, _: PreTrainedModel) -> tuple[GraphInfo, dict[str, torch.Tensor]]:
    try:
        with safe_open(bundle / CHECKPOINT_FILE, framework="pt") as file:
            names = file.keys()
            return GraphInfo(file.metadata() or {}, (), ()), {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise BundleRefused(f"{CHECKPOINT_FILE} is no checkpoint: truncated or foreign") from error


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    type_name = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name.removesuffix("32")
    shape = tuple(dimension.dim_param or int(dimension.dim_value) for dimension in tensor.shape.dim)
    return TensorInfo(value.name, f"tensor({type_name})", shape)
