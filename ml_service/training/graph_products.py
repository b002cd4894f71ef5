"""Products with weights in the serving graph: fp32, or row-wise 8 bit (W8A8) of weights in 8 or 4 bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from lib.quantization import LARGEST_CODE
from ml_service.common.bundle import Precision
from ml_service.common.stored_weights import (
    CODES,
    FACTORS,
    NIBBLES,
    SCALES,
    Tensors,
    Weights,
    product_tensors,
    stem_of,
    table_tensors,
)
from ml_service.training.graph_nodes import MICROSOFT, Nodes

ZERO_POINT = 128
"""Activations are unsigned for the processor's sake: signed ones take a path that is ten to thirty times slower."""


@dataclass(frozen=True)
class Operand:
    """A matrix (tokens, inputs), ready to be multiplied any number of times."""

    values: str
    scales: str = ""
    """Of each row, (tokens, 1); empty in fp32."""


class Products:
    """Multiplies 2-D activations (tokens, inputs) with weights stored as (outputs, inputs).

    In 8 bit each row is scaled by its own largest magnitude and each output has its own scale, so that a row's
    result depends on nothing but the row: the sums are integers, and exact in whatever order they are taken.
    """

    def __init__(self, nodes: Nodes, weights: Weights, precision: Precision) -> None:
        self._n, self._weights, self._precision = nodes, weights, precision
        self._zero_point = ""
        if precision != "fp32":
            self._zero_point = nodes.constant("zero_point", np.array(ZERO_POINT, np.uint8))

    def rows(self, vector: str) -> str:
        """A vector with an element for each row of a product.

        In fp32 its first element comes once more: ONNX Runtime multiplies a single row by another way than several,
        and it would come out otherwise alone than beside others.
        """
        if self._precision != "fp32":
            return vector
        n = self._n
        first = n.add("Slice", [vector, n.shape(0), n.shape(1)], f"{vector}/first")
        return n.add("Concat", [vector, first], f"{vector}/and_first", axis=0)

    def wanted_rows(self, product: str) -> str:
        """The rows of a product without what `rows` added."""
        if self._precision != "fp32":
            return product
        n = self._n
        return n.add("Slice", [product, n.shape(0), n.shape(-1), n.shape(0)], f"{product}/wanted")

    def zero_points(self, tokens: str) -> str:
        """As many zero points as there are elements in a vector; empty in fp32."""
        if self._precision == "fp32":
            return ""
        shape = self._n.add("Shape", [tokens], f"{tokens}/shape")
        return self._n.add("Expand", [self._zero_point, shape], f"{tokens}/zero_points")

    def operand(self, value: str, zero_points: str) -> Operand:
        """Quantise once for all products that take this value."""
        if self._precision == "fp32":
            return Operand(value)
        n = self._n
        magnitudes = n.add("Abs", [value], f"{value}/magnitudes")
        largest = n.add("ReduceMax", [magnitudes, n.shape(1)], f"{value}/largest", keepdims=1)
        column = n.add("Mul", [largest, n.number(1 / LARGEST_CODE)], f"{value}/scales")
        flat = n.add("Squeeze", [column, n.shape(1)], f"{value}/scales/flat")
        # A row of zeros has scale 0: 0 / 0 is some code, and that code times 0 is 0 again.
        codes = n.add("QuantizeLinear", [value, flat, zero_points], f"{value}/codes", axis=0)
        return Operand(codes, column)

    def product(self, operand: Operand, names: Sequence[str]) -> str:
        """One product with the named weights below each other."""
        stem = stem_of(names, is_turned=True)
        output = f"{stem}/product"
        self._store(product_tensors(self._weights, names, self._precision))
        if self._precision == "fp32":
            return self._n.add("MatMul", [operand.values, stem], output)
        codes = f"{stem}{CODES}" if self._precision == "int8" else self._expanded(names)
        return self._scaled_product(operand, codes, f"{stem}{SCALES}", output)

    def tied_product(self, operand: Operand, name: str, output: str) -> str:
        """The product with a weight that is an embedding table as well, and is stored as that: (outputs, inputs)."""
        if self._precision == "fp32":
            return self._n.add("Gemm", [operand.values, name], output, transB=1)
        turned = self._n.add("Transpose", [f"{name}{CODES}"], f"{name}/turned", perm=[1, 0])
        return self._scaled_product(operand, turned, f"{name}{SCALES}", output)

    def embedding(self, name: str, ids: str) -> str:
        """Rows of a table, (tokens, hidden)."""
        n = self._n
        self._store(table_tensors(self._weights, name, self._precision))
        if self._precision == "fp32":
            return n.add("Gather", [name, ids], "embedded")
        rows = n.add("Gather", [f"{name}{CODES}", ids], "embedded/codes")
        scale = n.add("Gather", [f"{name}{SCALES}", ids], "embedded/scales")
        values = n.add("Cast", [rows], "embedded/values", to=TensorProto.FLOAT)
        column = n.add("Unsqueeze", [scale, n.shape(1)], "embedded/scales/column")
        return n.add("Mul", [values, column], "embedded")

    def _expanded(self, names: Sequence[str]) -> str:
        """8-bit codes out of 4-bit ones; ONNX Runtime does it once, while it loads the graph."""
        n, stem = self._n, stem_of(names, is_turned=True)
        inputs = self._weights[names[0]].shape[1]
        codes = n.add("Cast", [f"{stem}{NIBBLES}"], f"{stem}/grouped", to=TensorProto.INT8)
        scaled = n.add("Mul", [codes, f"{stem}{FACTORS}"], f"{stem}/expanded")
        return n.add("Reshape", [scaled, n.shape(inputs, -1)], f"{stem}/codes")

    def _store(self, tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            self._n.constant(name, tensor)

    def _scaled_product(self, operand: Operand, codes: str, scales: str, output: str) -> str:
        inputs = [operand.values, codes, operand.scales, scales, self._zero_point]
        return self._n.add("MatMulIntegerToFloat", inputs, output, MICROSOFT)
