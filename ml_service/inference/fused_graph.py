"""Rewrite a bundle's graph at load for the compiled operators: fewer nodes, packed weights, a cache in 8 bit.

The bundle itself holds standard operators alone. What is not recognised here stays as it is: a network that differs
(another activation, norms of heads, capped logits) gets those parts from ONNX Runtime's own operators.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lib.packing import interleaved, pack_columns
from ml_service.common.bundle import CACHE_KINDS, GRID, LAST_POSITIONS, LOGITS, QUERY_LENGTHS

DOMAIN = "ml_service"
CACHE_BLOCK = 16
"""Tokens that lie together in the cache (`kernels/attention.h`)."""
_WIDEST_HEAD, _LANES = 256, 16
_LARGE_BYTES = 1 << 16
"""Larger constants are given to the session apart: a graph in one message can't hold more than 2 GB."""
_PLAIN_TYPES = (TensorProto.FLOAT, TensorProto.INT8)

Array = npt.NDArray[Any]


def cache_name(layer: int) -> str:
    """Cache input of a layer: uint8 (batch, key-value heads, blocks, bytes of a block), written in place."""
    return f"cache.{layer}"


def cache_block_bytes(head_size: int) -> int:
    """Keys and values of 16 tokens of a head, with a scale for each."""
    return CACHE_BLOCK * 2 * (head_size + 4)


def fits_cache(head_size: int) -> bool:
    """Whether the compiled attention can take heads of this size."""
    return head_size % _LANES == 0 and head_size <= _WIDEST_HEAD


class _Norm(NamedTuple):
    source: str
    weight: str
    epsilon: float


class FusedGraph:
    """A graph whose products and attention are our operators, where they were recognised.

    It is built backwards: each value is asked for by what needs it, and a node that knows more than one step behind it
    takes those steps into itself.
    """

    def __init__(self, model: onnx.ModelProto, threads: int, fuse_attention: bool) -> None:
        self._threads, self._fuse_attention = threads, fuse_attention
        self.arrays: dict[str, Array] = {}
        """What the initializers without data in the graph stand for."""
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = [node for node in model.graph.node if not self._fold(node)]
        self._producers = {name: node for node in nodes for name in node.output if name}
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()
        for node in model.graph.node:  # in their order, so that no recursion goes deeper than a layer
            if node.op_type == "SkipSimplifiedLayerNormalization":
                self._make(node.output[3])
        self._make(LOGITS)
        if not fuse_attention:
            for value in model.graph.output:
                self._make(value.name)
        self._announce_products()
        self.model = self._assembled(model)

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a sum of constants, which then is one: our operators ask for a norm's weight once."""
        if node.op_type != "Add" or not self._constants.keys() >= set(node.input):
            return False
        total = self._array(node.input[0]) + self._array(node.input[1])
        self._constants[node.output[0]] = numpy_helper.from_array(total, node.output[0])
        return True

    def _make(self, name: str) -> str:
        """See that a value is there, by the widest of our operators that ends in it."""
        if not name or name in self._made or name not in self._producers:
            return name
        self._made.add(name)
        node = self._producers[name]
        attempts = {
            "SkipSimplifiedLayerNormalization": self._sum,
            "MatMulIntegerToFloat": self._product,
            "Add": self._product,
            "Mul": self._gated_product,
            "Gather": self._attention,
        }
        attempt = attempts.get(node.op_type)
        if attempt is None or not attempt(node, name):
            for value in node.input:
                self._make(value)
            self._nodes.append(node)
            self._made.update(node.output)
        return name

    def _sum(self, node: onnx.NodeProto, name: str) -> bool:
        hidden, residual, weight = node.input
        total = node.output[3]
        if name != total:
            self._make(total)
            epsilon = helper.get_node_attr_value(node, "epsilon")
            self._add("RMSNormalization", [total, self._make(weight)], name, "", epsilon=epsilon, axis=-1)
            return True
        if not self._emit_product(hidden, total, residual=residual):
            self._add("Add", [self._make(hidden), self._make(residual)], total, "")
        return True

    def _product(self, node: onnx.NodeProto, name: str) -> bool:
        return self._emit_product(name, name)

    def _gated_product(self, node: onnx.NodeProto, name: str) -> bool:
        """SiLU of the first half of a product times the second half."""
        active, split = self._producer(node.input[0], "QuickGelu"), self._producer(node.input[1], "Split")
        if active is None or split is None or self._producer(active.input[0], "Split") is not split:
            return False
        is_silu = helper.get_node_attr_value(active, "alpha") == 1.0 and active.input[0] == split.output[0]
        return is_silu and len(split.output) == 2 and self._emit_product(split.input[0], name, is_gated=True)

    def _emit_product(self, product: str, output: str, residual: str = "", is_gated: bool = False) -> bool:
        """The product (with its bias) that makes a value, and what follows it; False where it is none."""
        bias = ""
        if (add := self._producer(product, "Add")) and add.input[1] in self._constants:
            product, bias = add.input[0], add.input[1]
        node = self._producer(product, "MatMulIntegerToFloat")
        if node is None or (quantized := self._producer(node.input[0], "QuantizeLinear")) is None:
            return False
        codes_KN = self._matrix(node.input[1])
        if codes_KN is None:
            return False
        norm = self._norm_before(quantized.input[0])
        assert not norm.weight or norm.weight in self._constants, "the operator asks for it once: this is a bug"
        packed = self._store_product(output, codes_KN, node.input[3], bias, is_gated)
        inputs = [self._make(norm.source), *packed, self._make(norm.weight), self._make(residual)]
        width = codes_KN.shape[1] // (2 if is_gated else 1)
        self._add(
            "RowProduct", inputs, output, width=width, gated=int(is_gated), epsilon=norm.epsilon, threads=self._threads
        )
        return True

    def _store_product(self, output: str, codes_KN: Array, scales: str, bias: str, is_gated: bool) -> list[str]:
        scales_N = self._array(scales)
        bias_N = self._array(bias) if bias else None
        if is_gated:
            order = interleaved(codes_KN.shape[1])
            is_there = order >= 0
            codes_KN, scales_N = codes_KN[:, order] * is_there.astype(np.int8), scales_N[order]
            bias_N = None if bias_N is None else bias_N[order]
        packed = pack_columns(codes_KN, scales_N, bias_N)
        parts = {f"{output}/{kind}": array for kind, array in packed._asdict().items()}
        self.arrays.update({name: array for name, array in parts.items() if array is not None})
        return [name if array is not None else "" for name, array in parts.items()]

    def _norm_before(self, value: str) -> _Norm:
        """RMS norm of what is multiplied, also where rows are picked out in between."""
        if picked := self._producer(value, "Gather"):
            norm = self._norm_before(picked.input[0])
            if norm.weight:
                source = f"{value}/unnormed"
                self._add("Gather", [self._make(norm.source), self._make(picked.input[1])], source, "")
                return norm._replace(source=source)
        if plain := self._producer(value, "RMSNormalization"):
            return _Norm(plain.input[0], plain.input[1], helper.get_node_attr_value(plain, "epsilon"))
        if skip := self._producer(value, "SkipSimplifiedLayerNormalization"):
            return _Norm(skip.output[3], skip.input[2], helper.get_node_attr_value(skip, "epsilon"))
        return _Norm(value, "", 0.0)

    def _attention(self, node: onnx.NodeProto, name: str) -> bool:
        """From flat tokens to flat tokens: what laid them out in a grid falls away."""
        reshape = self._producer(node.input[0], "Reshape")
        grouped = self._producer(reshape.input[0], "GroupQueryAttention") if reshape else None
        if grouped is None or not self._fuse_attention:
            return False
        assert self._constants.keys() >= set(grouped.input[7:9]), "the operator asks for its tables once: this is a bug"
        flat = []
        for value in grouped.input[:3]:
            gather = self._producer(value, "Gather") if value else None
            assert not value or gather, "attention reads from a grid: this is a bug"
            flat.append(self._make(gather.input[0]) if gather else "")
        layer = int(grouped.input[3].split(".")[1])
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in grouped.attribute}
        tables = [self._make(value) for value in grouped.input[7:9]]
        self._add(
            "CachedAttention", [*flat, GRID, QUERY_LENGTHS, LAST_POSITIONS, *tables, cache_name(layer)], name,
            heads=attributes["num_heads"], key_heads=attributes["kv_num_heads"], scale=attributes["scale"],
            cap=attributes.get("softcap", 0.0), window=max(attributes.get("local_window_size", -1), 0),
        )  # fmt: skip
        return True

    def _announce_products(self) -> None:
        """Each product knows the codes of the next one, to ask for them in time."""
        products = [node for node in self._nodes if node.op_type == "RowProduct"]
        for node, following in itertools.pairwise(products):
            node.input.append(following.input[1])

    def _producer(self, name: str, operator: str) -> onnx.NodeProto | None:
        node = self._producers.get(name)
        return node if node is not None and node.op_type == operator else None

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self._constants[name])

    def _matrix(self, name: str) -> Array | None:
        """The codes (inputs, outputs) of a product, which may be stored turned or in 4 bit."""
        if name in self._constants:
            return self._array(name)
        if (turned := self._producer(name, "Transpose")) and turned.input[0] in self._constants:
            return self._array(turned.input[0]).T
        reshape = self._producer(name, "Reshape")
        scaled = self._producer(reshape.input[0], "Mul") if reshape else None
        cast = self._producer(scaled.input[0], "Cast") if scaled else None
        if scaled is None or cast is None:
            return None
        expanded: Array = self._array(cast.input[0]).astype(np.int8) * self._array(scaled.input[1])
        return expanded.reshape(-1, expanded.shape[-1])

    def _add(self, operator: str, inputs: list[str], output: str, domain: str = DOMAIN, **attributes: Any) -> None:
        self._made.add(output)
        name = f"{operator}/{output}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=name, domain=domain, **attributes))

    def _assembled(self, model: onnx.ModelProto) -> onnx.ModelProto:
        used = {name for node in self._nodes for name in node.input}
        graph = onnx.GraphProto(name=model.graph.name, node=self._nodes)
        for name in used & self._constants.keys():
            tensor = self._constants[name]
            if len(tensor.raw_data) > _LARGE_BYTES and tensor.data_type in _PLAIN_TYPES:
                self.arrays[name] = numpy_helper.to_array(tensor)
            else:
                graph.initializer.append(tensor)
        graph.initializer.extend(_placeholder(name, array) for name, array in self.arrays.items())
        graph.input.extend(value for value in model.graph.input if value.name in used)
        if self._fuse_attention:
            layers = sum(value.name.startswith("past.") for value in model.graph.input) // len(CACHE_KINDS)
            shape = ["batch", "heads", "blocks", "bytes"]
            graph.input.extend(
                helper.make_tensor_value_info(cache_name(layer), TensorProto.UINT8, shape) for layer in range(layers)
            )
        graph.output.extend(v for v in model.graph.output if v.name == LOGITS or not self._fuse_attention)
        return onnx.ModelProto(
            ir_version=model.ir_version, producer_name=model.producer_name, graph=graph,
            opset_import=[*model.opset_import, helper.make_opsetid(DOMAIN, 1)], metadata_props=model.metadata_props,
        )  # fmt: skip


def _placeholder(name: str, array: Array) -> onnx.TensorProto:
    """An initializer whose data the session is given apart."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="given")
    return tensor
