"""A bundle proves itself at every load; anything else is refused with a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lib.files import sha256_of_file
from lib.provenance import current_commit
from ml_service.common.bundle import (
    GOLDEN_FILE,
    GRAPH_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    load_manifest,
    metadata_props,
    read_metadata_props,
)
from ml_service.common.errors import BundleRefused
from ml_service.common.settings import PROJECT, Settings
from ml_service.inference.live import open_live_model
from ml_service.pipeline.stages import export_model
from ml_service.training.export import WEIGHTS_FILE
from ml_service.utils.telemetry import Telemetry


def refusal(bundle: Path, runtime: str = "onnx") -> str:
    with pytest.raises(BundleRefused) as refused:
        open_live_model(bundle, Settings(slots=1, runtime=runtime), Telemetry())  # type: ignore[arg-type]
    return str(refused.value)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def seal(bundle: Path, **changes: object) -> None:
    """Write a manifest that fits the changed files, as somebody would who knows the format."""
    manifest = json.loads((bundle / MANIFEST_FILE).read_text()) | changes
    manifest["files"] = {name: sha256_of_file(bundle / name) for name in manifest["files"]}
    (bundle / MANIFEST_FILE).write_text(json.dumps(manifest))


def edit(path: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_metadata_are_in_the_graph_file_itself_and_readable_with_plain_onnx(bundle: Path) -> None:
    props = {entry.key: entry.value for entry in onnx.load(str(bundle / GRAPH_FILE)).metadata_props}
    manifest = load_manifest(bundle)
    assert props == metadata_props(manifest)
    assert props["commit"] == str(current_commit(PROJECT))
    assert props["experiment"] == "small"
    assert props["date"].endswith("Z")
    assert read_metadata_props(props)["parameters"] == manifest.parameters
    assert read_metadata_props(props)["experiment_id"] is None


def test_weights_too_large_for_one_message_lie_beside_the_graph_and_are_hashed_too(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_service.training.export.LARGEST_MESSAGE_BYTES", 1000)
    for precision in ("fp32", "int8", "int4"):
        output = tmp_path / precision
        manifest = export_model(run, output, precision)  # type: ignore[arg-type]
        assert WEIGHTS_FILE in manifest.files
        assert (output / GRAPH_FILE).stat().st_size < (output / WEIGHTS_FILE).stat().st_size
    data = output / WEIGHTS_FILE
    data.write_bytes(data.read_bytes()[:-1])
    assert f"{WEIGHTS_FILE} is not the file" in refusal(output)


def test_the_graph_has_dynamic_axes(bundle: Path) -> None:
    graph = onnx.load(str(bundle / GRAPH_FILE)).graph
    axes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert axes["input_ids"] == ["tokens"]
    assert axes["grid"] == ["batch", "length"]
    assert axes["past.0.key"][0] == "batch"
    assert axes["past.0.key"][2] == "capacity"


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / TOKENIZER_FILE).unlink()
    assert "tokenizer.json is missing" in refusal(copy)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_truncated_graph_is_refused_by_its_hash_and_by_the_runtime(copy: Path, runtime: str) -> None:
    data = (copy / GRAPH_FILE).read_bytes()
    (copy / GRAPH_FILE).write_bytes(data[: len(data) // 2])
    assert "its SHA-256 differs" in refusal(copy)
    seal(copy)
    assert "truncated or foreign" in refusal(copy, runtime)


def test_a_swapped_graph_is_refused_by_its_hash_and_by_its_metadata(copy: Path, bundle_fp32: Path) -> None:
    shutil.copyfile(bundle_fp32 / GRAPH_FILE, copy / GRAPH_FILE)
    assert "its SHA-256 differs" in refusal(copy)
    seal(copy)
    assert "belongs to another bundle" in refusal(copy)


def test_a_foreign_graph_is_refused_by_its_inputs(copy: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "foreign", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(copy / GRAPH_FILE))
    seal(copy)
    assert "foreign graph: its inputs are x" in refusal(copy)


def test_changed_weights_do_not_prove_themselves(copy: Path) -> None:
    model = onnx.load(str(copy / GRAPH_FILE))
    (scales,) = [t for t in model.graph.initializer if t.name == "model.layers.1.mlp.down_proj.weight.T.scales"]
    values = onnx.numpy_helper.to_array(scales) * 30
    scales.CopyFrom(onnx.numpy_helper.from_array(values, scales.name))
    onnx.save(model, str(copy / GRAPH_FILE))
    seal(copy)
    assert "does not prove itself" in refusal(copy)


def test_a_golden_sample_of_another_model_is_refused(copy: Path) -> None:
    def change(golden: dict) -> None:  # type: ignore[type-arg]
        golden["greedy_ids"] = golden["greedy_ids"][::-1]
        golden["margins"] = [9.0] * len(golden["margins"])

    edit(copy / GOLDEN_FILE, change)
    seal(copy)
    assert "greedy token" in refusal(copy)


def test_an_edited_manifest_does_not_fit_its_graph(copy: Path) -> None:
    seal(copy, experiment="a better one")
    assert "belongs to another bundle" in refusal(copy)


def test_what_is_no_bundle_is_told(tmp_path: Path, copy: Path) -> None:
    assert "no manifest.json" in refusal(tmp_path)
    seal(copy, format_version=99)
    assert "format 99" in refusal(copy)
    (copy / MANIFEST_FILE).write_text("{")
    assert "not readable" in refusal(copy)


def test_a_path_out_of_the_bundle_is_no_file_of_it(copy: Path) -> None:
    edit(copy / MANIFEST_FILE, lambda manifest: manifest["files"].update({"../secret": "0"}))
    assert "no plain file name" in refusal(copy)
