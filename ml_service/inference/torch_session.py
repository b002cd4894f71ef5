"""The torch runtime: the same step as `session.py`, one row at a time, with the weights read out of the same graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from lib.quantization import dequantize_blocks
from ml_service.common.bundle import GRAPH_FILE, Architecture
from ml_service.common.errors import BundleRefused
from ml_service.inference.session import GraphInfo, Logits, Row, TensorInfo

Array = npt.NDArray[np.float32]


class TorchSession:
    """transformers' own Qwen3 with a cache for each slot: slow, plain, and the reference for the other runtime."""

    def __init__(self, bundle: Path, architecture: Architecture, slots: int, chunk: int, threads: int) -> None:
        """Raises BundleRefused where the graph does not hold the weights of this architecture."""
        torch.set_num_threads(threads)
        self.architecture, self.slots, self.chunk = architecture, slots, chunk
        try:
            graph = onnx.load(str(bundle / GRAPH_FILE))
        except Exception as error:  # protobuf and onnx raise classes of their own
            raise BundleRefused(f"{GRAPH_FILE} is no ONNX file: truncated or foreign") from error
        self.graph = GraphInfo(
            {entry.key: entry.value for entry in graph.metadata_props},
            tuple(map(_tensor_info, graph.graph.input)),
            tuple(map(_tensor_info, graph.graph.output)),
        )
        self._model = load_model(graph, architecture)
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

    def close(self) -> None:
        """Drop the model and the caches."""
        self._caches.clear()
        del self._model


def load_model(graph: onnx.ModelProto, architecture: Architecture) -> Qwen3ForCausalLM:
    """transformers' model with the weights of a serving graph. Raises BundleRefused where they do not fit."""
    a = architecture
    config = Qwen3Config(
        vocab_size=a.vocabulary_size,
        max_position_embeddings=a.context_length,
        hidden_size=a.hidden_size,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.key_value_heads,
        head_dim=a.head_size,
        intermediate_size=a.intermediate_size,
        rms_norm_eps=a.rms_norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": a.rope_theta},
        tie_word_embeddings=a.tied_embeddings,
        bos_token_id=a.end_of_text_id,
        eos_token_id=a.end_of_text_id,
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config)
    state = {name: torch.from_numpy(np.array(weight)) for name, weight in _unpacked(graph, a)}
    if a.tied_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BundleRefused(f"{GRAPH_FILE} does not hold the weights that its configuration names") from error
    return model.eval()


def _unpacked(graph: onnx.ModelProto, architecture: Architecture) -> Iterator[tuple[str, Array]]:
    """(name, weight as (outputs, inputs)) under transformers' names; what was packed for the graph is taken apart."""
    a = architecture
    key_value_width = a.key_value_heads * a.head_size
    parts = {
        "qkv_proj": [("q_proj", a.heads * a.head_size), ("k_proj", key_value_width), ("v_proj", key_value_width)],
        "gate_up_proj": [("gate_proj", a.intermediate_size), ("up_proj", a.intermediate_size)],
    }
    for name, weight in _stored(graph):
        packed = next((key for key in parts if f".{key}." in name), None)
        if packed is None:
            yield name, weight
            continue
        start = 0
        for part, width in parts[packed]:
            yield name.replace(packed, part), weight[start : start + width]
            start += width


def _stored(graph: onnx.ModelProto) -> Iterator[tuple[str, Array]]:
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, tensor in tensors.items():
        if name.endswith(".weight.codes"):
            stem = name.removesuffix(".codes")
            yield (
                stem,
                dequantize_blocks(numpy_helper.to_array(tensor), numpy_helper.to_array(tensors[f"{stem}.scales"])),
            )
        elif name.endswith(".weight"):
            weight = numpy_helper.to_array(tensor)
            is_transposed = weight.ndim == 2 and not name.startswith(("model.embed_tokens", "lm_head"))
            yield name, weight.T if is_transposed else weight


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    type_name = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name.removesuffix("32")
    shape = tuple(dimension.dim_param or int(dimension.dim_value) for dimension in tensor.shape.dim)
    return TensorInfo(value.name, f"tensor({type_name})", shape)
