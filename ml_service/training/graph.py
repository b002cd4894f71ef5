"""The serving graph, built from a state dict: one graph for prefill, ragged decode, chunks and scoring."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from ml_service.common.bundle import (
    CACHE_KINDS,
    GRID,
    INPUT_IDS,
    LAST_POSITIONS,
    LOGIT_ROWS,
    LOGITS,
    MAX_TOTAL_LENGTH,
    PLACES,
    QUERY_LENGTHS,
    Architecture,
    CacheKind,
    Precision,
    past_name,
    present_name,
)
from ml_service.common.stored_weights import Weights
from ml_service.training.families import Family, Layer, NoGraph, Rotary
from ml_service.training.graph_nodes import MICROSOFT, Nodes
from ml_service.training.graph_products import Products

OPSET = 23
ROTARY_SLACK = 1024
"""Positions beyond the context for which angles exist: a right-padded chunk may reach past the last real token."""
EMBEDDING = "model.embed_tokens.weight"


def build_graph(architecture: Architecture, family: Family, weights: Weights, precision: Precision) -> onnx.ModelProto:
    """Build the graph for weights under their names in transformers.

    Inputs and outputs are those of `common/bundle.py`. The tokens of all rows lie flat below each other, so padding
    costs no product; attention alone sees rows: GroupQueryAttention with rotary embedding inside and `query_seqlens`,
    so rows of different lengths share a step and the cache is written in place. Raises NoGraph where a weight is left.
    """
    return _GraphBuilder(architecture, family, weights, precision).build()


class _Used(dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]):
    """Weights that remember which of them were asked for."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.left = set(weights)

    def __getitem__(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        self.left.discard(name)
        return super().__getitem__(name)


class _GraphBuilder:
    def __init__(self, architecture: Architecture, family: Family, weights: Weights, precision: Precision) -> None:
        self._a, self._family = architecture, family
        self._weights = _Used(weights)
        self._n = Nodes()
        self._products = Products(self._n, self._weights, precision)
        self._ids, self._places = self._products.rows(INPUT_IDS), self._products.rows(PLACES)
        self._zero_points = self._products.zero_points(self._ids)

    def build(self) -> onnx.ModelProto:
        hidden, residual = self._embed(), ""
        for index, layer in enumerate(self._family.layers):
            hidden, residual = self._layer(index, layer, hidden, residual)
        normed, _ = self._norm(hidden, residual, "model.norm.weight")
        self._head(normed)
        if self._weights.left:
            raise NoGraph(f"the serving graph has no place for the weight {min(self._weights.left)}")
        graph = helper.make_graph(self._n.nodes, self._a.model_type, self._inputs(), self._outputs(), self._n.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="ml_service")

    def _layer(self, index: int, layer: Layer, hidden: str, residual: str) -> tuple[str, str]:
        prefix = f"model.layers.{index}"
        normed, residual = self._norm(hidden, residual, f"{prefix}.input_layernorm.weight")
        projected = self._attention(index, layer, normed)
        before_feed_forward = f"{prefix}.post_attention_layernorm.weight"
        is_sandwich = f"{prefix}.pre_feedforward_layernorm.weight" in self._weights
        if is_sandwich:
            projected, _ = self._norm(projected, "", before_feed_forward)
            before_feed_forward = f"{prefix}.pre_feedforward_layernorm.weight"
        normed, residual = self._norm(projected, residual, before_feed_forward)
        hidden = self._feed_forward(prefix, normed)
        if is_sandwich:
            hidden, _ = self._norm(hidden, "", f"{prefix}.post_feedforward_layernorm.weight")
        return hidden, residual

    def _attention(self, index: int, layer: Layer, normed: str) -> str:
        prefix = f"model.layers.{index}.self_attn"
        packed = self._linear(normed, prefix, ["qkv_proj"], ["q_proj", "k_proj", "v_proj"])
        inputs = [
            *self._query_key_value(prefix, packed), past_name(index, "key"), past_name(index, "value"),
            LAST_POSITIONS, MAX_TOTAL_LENGTH, *self._rotary_tables(layer.rotary),
            "", "", "", "", "", "", "", QUERY_LENGTHS,
        ]  # fmt: skip
        outputs = [f"{prefix}/attended", present_name(index, "key"), present_name(index, "value")]
        self._n.add_many(
            "GroupQueryAttention", inputs, outputs, MICROSOFT,
            num_heads=self._a.heads, kv_num_heads=self._a.key_value_heads, do_rotary=1,
            scale=self._family.attention_scale, softcap=self._family.attention_cap,
            local_window_size=layer.window or -1,
        )  # fmt: skip
        width = self._a.heads * self._a.head_size
        places = self._n.add("Reshape", [outputs[0], self._n.shape(-1, width)], f"{prefix}/places")
        tokens = self._n.add("Gather", [places, self._places], f"{prefix}/tokens")
        return self._linear(tokens, prefix, ["o_proj"])

    def _query_key_value(self, prefix: str, packed: str) -> list[str]:
        """As attention takes them: packed, or apart where query and key have norms of their own."""
        if f"{prefix}.q_norm.weight" not in self._weights:
            return [self._n.add("Gather", [packed, GRID], f"{prefix}/qkv"), "", ""]
        a, n = self._a, self._n
        widths = n.shape(*(heads * a.head_size for heads in (a.heads, a.key_value_heads, a.key_value_heads)))
        query, key, value = n.add_many("Split", [packed, widths], [f"{prefix}/{part}" for part in "qkv"], axis=-1)
        parts = [
            self._head_norm(query, f"{prefix}.q_norm.weight", a.heads),
            self._head_norm(key, f"{prefix}.k_norm.weight", a.key_value_heads),
            value,
        ]
        return [n.add("Gather", [part, GRID], f"{part}/grid") for part in parts]

    def _head_norm(self, value: str, name: str, heads: int) -> str:
        split = self._n.add("Reshape", [value, self._n.shape(-1, heads, self._a.head_size)], f"{name}/heads")
        normed, _ = self._norm(split, "", name)
        return self._n.add("Reshape", [normed, self._n.shape(-1, heads * self._a.head_size)], f"{name}/flat")

    def _feed_forward(self, prefix: str, normed: str) -> str:
        prefix = f"{prefix}.mlp"
        packed = self._linear(normed, prefix, ["gate_up_proj"], ["gate_proj", "up_proj"])
        gate, up = self._n.add_many("Split", [packed], [f"{prefix}/gate", f"{prefix}/up"], axis=-1, num_outputs=2)
        gated = self._n.add("Mul", [self._activation(gate, f"{prefix}/active"), up], f"{prefix}/gated")
        return self._linear(gated, prefix, ["down_proj"])

    def _activation(self, value: str, output: str) -> str:
        if self._family.activation == "silu":
            # QuickGelu(x) is x * sigmoid(alpha x): with alpha 1 it is SiLU in one node.
            return self._n.add("QuickGelu", [value], output, MICROSOFT, alpha=1.0)
        approximate = "tanh" if self._family.activation == "gelu_tanh" else "none"
        return self._n.add("Gelu", [value], output, approximate=approximate)

    def _linear(self, value: str, prefix: str, *choices: list[str]) -> str:
        """One product with the first choice of projections that the network has, and their biases."""
        names = next([f"{prefix}.{n}" for n in c] for c in choices if f"{prefix}.{c[0]}.weight" in self._weights)
        operand = self._products.operand(value, self._zero_points)
        product = self._products.product(operand, [f"{name}.weight" for name in names])
        biases = [f"{name}.bias" for name in names if f"{name}.bias" in self._weights]
        if not biases:
            return product
        bias = np.concatenate([self._weights[name] for name in biases])
        return self._n.add("Add", [product, self._n.constant("+".join(biases), bias)], f"{product}/biased")

    def _norm(self, hidden: str, residual: str, name: str) -> tuple[str, str]:
        """RMS norm of the sum; returns the normed value and the sum."""
        weight, output = self._norm_weight(name), f"{name}/normed"
        if not residual:
            self._n.add("RMSNormalization", [hidden, weight], output, epsilon=self._family.epsilon, axis=-1)
            return output, hidden
        total = f"{name}/sum"
        self._n.add_many(
            "SkipSimplifiedLayerNormalization", [hidden, residual, weight], [output, "", "", total], MICROSOFT,
            epsilon=self._family.epsilon,
        )  # fmt: skip
        return output, total

    def _norm_weight(self, name: str) -> str:
        weight = self._n.constant(name, self._weights[name])
        if not self._family.norm_offset:
            return weight
        return self._n.add("Add", [weight, self._n.number(self._family.norm_offset)], f"{name}/offset")

    def _embed(self) -> str:
        embedded = self._products.embedding(EMBEDDING, self._ids)
        if self._family.embedding_factor == 1.0:
            return embedded
        return self._n.add("Mul", [embedded, self._n.number(self._family.embedding_factor)], "embedded/scaled")

    def _head(self, normed: str) -> None:
        """Logits of the asked-for tokens only: the head is the largest product."""
        wanted = self._n.add("Gather", [normed, self._products.rows(LOGIT_ROWS)], "wanted")
        operand = self._products.operand(wanted, self._products.zero_points(LOGIT_ROWS))
        if self._a.tied_embeddings:
            logits = self._products.tied_product(operand, EMBEDDING, f"{LOGITS}/product")
        else:
            logits = self._products.product(operand, ["lm_head.weight"])
        if cap := self._family.logit_cap:
            scaled = self._n.add("Mul", [logits, self._n.number(1 / cap)], f"{LOGITS}/scaled")
            bounded = self._n.add("Tanh", [scaled], f"{LOGITS}/bounded")
            logits = self._n.add("Mul", [bounded, self._n.number(cap)], f"{LOGITS}/capped")
        self._products.wanted_rows(logits)
        self._n.call_last(LOGITS)

    def _rotary_tables(self, rotary: Rotary) -> list[str]:
        key = f"{rotary.frequencies[-1]:.9g}x{rotary.factor:.9g}"
        positions = np.arange(self._a.context_length + ROTARY_SLACK, dtype=np.float32)
        angles = np.outer(positions, rotary.frequencies)
        factor = np.float32(rotary.factor)
        return [
            self._n.constant(f"rotary_{name}/{key}", (function(angles) * factor).astype(np.float32))
            for name, function in (("cos", np.cos), ("sin", np.sin))
        ]

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        info = helper.make_tensor_value_info
        fixed = [
            info(INPUT_IDS, TensorProto.INT64, ["tokens"]),
            info(GRID, TensorProto.INT64, ["batch", "length"]),
            info(PLACES, TensorProto.INT64, ["tokens"]),
            info(QUERY_LENGTHS, TensorProto.INT32, ["batch"]),
            info(LAST_POSITIONS, TensorProto.INT32, ["batch"]),
            info(MAX_TOTAL_LENGTH, TensorProto.INT32, []),
            info(LOGIT_ROWS, TensorProto.INT64, ["rows"]),
        ]
        return fixed + self._caches(past_name)

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["rows", self._a.vocabulary_size])
        return [logits, *self._caches(present_name)]

    def _caches(self, name_of: Callable[[int, CacheKind], str]) -> list[onnx.ValueInfoProto]:
        shape: list[str | int | None] = ["batch", self._a.key_value_heads, "capacity", self._a.head_size]
        return [
            helper.make_tensor_value_info(name_of(layer, kind), TensorProto.FLOAT, shape)
            for layer in range(self._a.layers)
            for kind in CACHE_KINDS
        ]
