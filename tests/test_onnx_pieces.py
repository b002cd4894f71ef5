"""ONNX files in pieces: the same as read at once; the header alone; damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lib.onnx_pieces import load_in_pieces, read_onnx_header
from ml_service.common.bundle import GRAPH_FILE


def test_a_graph_read_in_pieces_is_the_graph(bundle: Path) -> None:
    path = bundle / GRAPH_FILE
    whole = onnx.load_model(path)
    assert load_in_pieces(path) == whole
    header = read_onnx_header(path)
    assert header.metadata_props == {entry.key: entry.value for entry in whole.metadata_props}
    assert header.inputs == list(whole.graph.input)
    assert header.outputs == list(whole.graph.output)


def test_weights_that_lie_apart_are_read_too(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])
    node = helper.make_node("Identity", ["w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [], [value], [weight]))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (read,) = load_in_pieces(tmp_path / "m.onnx").graph.initializer
    assert numpy_helper.to_array(read).tolist() == list(range(1000))


@pytest.mark.parametrize("harm", ["cut", "foreign", "empty tag", "absent"])
def test_what_is_no_onnx_file_is_refused(bundle: Path, tmp_path: Path, harm: str) -> None:
    whole = (bundle / GRAPH_FILE).read_bytes()
    content = {"cut": whole[:-100], "foreign": b"not a graph at all", "empty tag": b"\xff" * 40, "absent": None}[harm]
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    for read in (read_onnx_header, load_in_pieces):
        with pytest.raises(ValueError, match="truncated or foreign"):
            read(tmp_path / "x")
