"""The serving graph, built from a state dict: one graph for prefill, ragged decode, chunks and scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lib.quantization import ZERO_POINT, quantize_blocks
from ml_service.common.bundle import (
    BLOCK_SIZE,
    CACHE_KINDS,
    INPUT_IDS,
    LAST_POSITIONS,
    LOGIT_ROWS,
    LOGITS,
    MAX_TOTAL_LENGTH,
    QUERY_LENGTHS,
    Architecture,
    CacheKind,
    Precision,
    past_name,
    present_name,
)

OPSET = 23
MICROSOFT = "com.microsoft"
ROTARY_SLACK = 1024
"""Positions beyond the context for which angles exist: a right-padded chunk may reach past the last real token."""
Weights = Mapping[str, npt.NDArray[np.float32]]


def build_graph(architecture: Architecture, weights: Weights, precision: Precision) -> onnx.ModelProto:
    """Build the graph for Qwen3 weights under their names in transformers.

    Inputs and outputs are those of `common/bundle.py`. Attention is GroupQueryAttention with rotary embedding inside
    and `query_seqlens`, so rows of different lengths share a step and the cache is written in place. In `int8` all
    matrices are MatMulNBits (8 bit, blocks of 64), whose rows do not depend on each other.
    """
    return _GraphBuilder(architecture, weights, precision).build()


class _GraphBuilder:
    def __init__(self, architecture: Architecture, weights: Weights, precision: Precision) -> None:
        self._a, self._weights, self._precision = architecture, weights, precision
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        self._rotary_tables()
        hidden, residual = self._embed(), ""
        for layer in range(self._a.layers):
            hidden, residual = self._layer(layer, hidden, residual)
        normed, _ = self._norm(hidden, residual, "model.norm.weight", "final")
        self._head(normed)
        graph = helper.make_graph(
            self._nodes, "qwen3", self._inputs(), self._outputs(), list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="ml_service")

    def _layer(self, layer: int, hidden: str, residual: str) -> tuple[str, str]:
        a, prefix = self._a, f"model.layers.{layer}"
        normed, residual = self._norm(hidden, residual, f"{prefix}.input_layernorm.weight", f"{prefix}/in")
        projections = [f"{prefix}.self_attn.{name}_proj.weight" for name in ("q", "k", "v")]
        packed = self._matmul(normed, projections, f"{prefix}.self_attn.qkv_proj.weight")
        widths = [a.heads * a.head_size, a.key_value_heads * a.head_size, a.key_value_heads * a.head_size]
        query, key, value = self._split(packed, widths, f"{prefix}/qkv")
        query = self._head_norm(query, f"{prefix}.self_attn.q_norm.weight", a.heads)
        key = self._head_norm(key, f"{prefix}.self_attn.k_norm.weight", a.key_value_heads)
        attended = self._attention(layer, query, key, value)
        projected = self._matmul(attended, [f"{prefix}.self_attn.o_proj.weight"])
        normed, residual = self._norm(projected, residual, f"{prefix}.post_attention_layernorm.weight", f"{prefix}/mid")
        return self._feed_forward(prefix, normed), residual

    def _attention(self, layer: int, query: str, key: str, value: str) -> str:
        output = f"model.layers.{layer}/attended"
        inputs = [
            query, key, value, past_name(layer, "key"), past_name(layer, "value"),
            LAST_POSITIONS, MAX_TOTAL_LENGTH, "rotary_cos", "rotary_sin",
            "", "", "", "", "", "", "", QUERY_LENGTHS,
        ]  # fmt: skip
        outputs = [output, present_name(layer, "key"), present_name(layer, "value")]
        self._node(
            "GroupQueryAttention", inputs, outputs, MICROSOFT,
            num_heads=self._a.heads, kv_num_heads=self._a.key_value_heads, do_rotary=1,
        )  # fmt: skip
        return output

    def _feed_forward(self, prefix: str, normed: str) -> str:
        names = [f"{prefix}.mlp.gate_proj.weight", f"{prefix}.mlp.up_proj.weight"]
        packed = self._matmul(normed, names, f"{prefix}.mlp.gate_up_proj.weight")
        gate, up = self._split(packed, [self._a.intermediate_size] * 2, f"{prefix}/gate_up")
        # QuickGelu(x) is x * sigmoid(alpha x): with alpha 1 it is SiLU in one node.
        self._node("QuickGelu", [gate], [f"{prefix}/silu"], MICROSOFT, alpha=1.0)
        self._node("Mul", [f"{prefix}/silu", up], [f"{prefix}/gated"])
        return self._matmul(f"{prefix}/gated", [f"{prefix}.mlp.down_proj.weight"])

    def _norm(self, hidden: str, residual: str, weight: str, name: str) -> tuple[str, str]:
        """RMS norm of the sum; returns the normed value and the sum."""
        self._constant(weight, self._weights[weight])
        output = f"{name}/normed"
        if not residual:
            self._node("RMSNormalization", [hidden, weight], [output], epsilon=self._a.rms_norm_epsilon, axis=-1)
            return output, hidden
        total = f"{name}/sum"
        self._node(
            "SkipSimplifiedLayerNormalization", [hidden, residual, weight], [output, "", "", total], MICROSOFT,
            epsilon=self._a.rms_norm_epsilon,
        )  # fmt: skip
        return output, total

    def _head_norm(self, value: str, weight: str, heads: int) -> str:
        split, joined = f"heads/{heads}", f"heads/{heads}/joined"
        self._constant(split, np.array([0, 0, heads, self._a.head_size], np.int64))
        self._constant(joined, np.array([0, 0, heads * self._a.head_size], np.int64))
        self._constant(weight, self._weights[weight])
        self._node("Reshape", [value, split], [f"{weight}/heads"])
        self._node(
            "RMSNormalization", [f"{weight}/heads", weight], [f"{weight}/normed"],
            epsilon=self._a.rms_norm_epsilon, axis=-1,
        )  # fmt: skip
        self._node("Reshape", [f"{weight}/normed", joined], [f"{weight}/flat"])
        return f"{weight}/flat"

    def _matmul(self, value: str, names: list[str], packed_name: str | None = None) -> str:
        """One product with the named (outputs, inputs) weights below each other."""
        name = packed_name or names[0]
        weight_NK = np.concatenate([self._weights[n] for n in names])
        output = f"{name}/product"
        if self._precision == "int8":
            self._matmul_nbits(value, name, weight_NK, output)
        else:
            self._constant(name, np.ascontiguousarray(weight_NK.T))
            self._node("MatMul", [value, name], [output])
        return output

    def _matmul_nbits(self, value: str, name: str, weight_NK: npt.NDArray[np.float32], output: str) -> None:
        if f"{name}.codes" not in self._initializers:
            codes, scales = quantize_blocks(weight_NK, BLOCK_SIZE)
            self._constant(f"{name}.codes", codes)
            self._constant(f"{name}.scales", scales)
        outputs, inputs = weight_NK.shape
        self._node(
            "MatMulNBits", [value, f"{name}.codes", f"{name}.scales"], [output], MICROSOFT,
            N=outputs, K=inputs, bits=8, block_size=BLOCK_SIZE, accuracy_level=4,
        )  # fmt: skip

    def _embed(self) -> str:
        name = "model.embed_tokens.weight"
        table = self._weights[name]
        if self._precision == "fp32":
            self._constant(name, table)
            self._node("Gather", [name, INPUT_IDS], ["embedded"])
            return "embedded"
        codes, scales = quantize_blocks(table, BLOCK_SIZE)
        self._constant(f"{name}.codes", codes)
        self._constant(f"{name}.scales", scales)
        self._constant("code_zero", np.array(ZERO_POINT, np.float32))
        self._constant("one_more_axis", np.array([-1], np.int64))
        self._constant("embedded_shape", np.array([0, 0, table.shape[1]], np.int64))
        self._node("Gather", [f"{name}.codes", INPUT_IDS], ["embedded/codes"])
        self._node("Gather", [f"{name}.scales", INPUT_IDS], ["embedded/scales"])
        self._node("Cast", ["embedded/codes"], ["embedded/float"], to=TensorProto.FLOAT)
        self._node("Sub", ["embedded/float", "code_zero"], ["embedded/centred"])
        self._node("Unsqueeze", ["embedded/scales", "one_more_axis"], ["embedded/scales_column"])
        self._node("Mul", ["embedded/centred", "embedded/scales_column"], ["embedded/blocks"])
        self._node("Reshape", ["embedded/blocks", "embedded_shape"], ["embedded"])
        return "embedded"

    def _head(self, normed: str) -> None:
        """Logits of the asked-for rows only: the head is the largest product."""
        tied = self._a.tied_embeddings
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        self._constant("flat_shape", np.array([-1, self._a.hidden_size], np.int64))
        self._node("Reshape", [normed, "flat_shape"], ["flat"])
        self._node("Gather", ["flat", LOGIT_ROWS], ["wanted"])
        if self._precision == "int8":
            self._matmul_nbits("wanted", name, self._weights[name], LOGITS)
        else:
            self._constant(name, self._weights[name])
            self._node("Gemm", ["wanted", name], [LOGITS], transB=1)

    def _rotary_tables(self) -> None:
        half = self._a.head_size // 2
        frequencies = 1.0 / self._a.rope_theta ** (np.arange(half, dtype=np.float32) / np.float32(half))
        positions = np.arange(self._a.context_length + ROTARY_SLACK, dtype=np.float32)
        angles = np.outer(positions, frequencies.astype(np.float32))
        self._constant("rotary_cos", np.cos(angles).astype(np.float32))
        self._constant("rotary_sin", np.sin(angles).astype(np.float32))

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        info = helper.make_tensor_value_info
        fixed = [
            info(INPUT_IDS, TensorProto.INT64, ["batch", "length"]),
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

    def _split(self, value: str, widths: list[int], name: str) -> list[str]:
        sizes = "x".join(map(str, widths))
        self._constant(f"split/{sizes}", np.array(widths, np.int64))
        outputs = [f"{name}/{index}" for index in range(len(widths))]
        self._node("Split", [value, f"split/{sizes}"], outputs, axis=-1)
        return outputs

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> None:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)

    def _node(self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> None:
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))
