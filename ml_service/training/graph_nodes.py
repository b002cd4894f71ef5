"""Nodes and constants of an ONNX graph while it is being built."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"


class Nodes:
    """Collects what a graph consists of; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    @property
    def constants(self) -> list[onnx.TensorProto]:
        """All constants, in the order of their first use."""
        return list(self._constants.values())

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """A named constant; the first value given to a name stays."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def shape(self, *sizes: int) -> str:
        """A constant int64 vector: a shape, axes or widths."""
        return self.constant(f"sizes/{'x'.join(map(str, sizes))}", np.array(sizes, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.constant(f"number/{value!r}", np.array(value, np.float32))

    def add(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return self.add_many(operator, inputs, [output], domain, **attributes)[0]

    def call_last(self, name: str) -> None:
        """Give the output of the last node the name that the graph promises."""
        self.nodes[-1].output[0] = name

    def add_many(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node with several outputs; an empty name leaves one out."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs
