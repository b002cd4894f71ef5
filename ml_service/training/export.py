"""From a trained run or a transformers checkpoint to a bundle: graph, metadata, golden sample, manifest, card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lib.files import sha256_of_file, staged_directory, write_json
from lib.hub import checkpoint_directory
from lib.modeling import count_parameters
from lib.provenance import UNKNOWN_COMMIT, current_commit, now_utc, versions
from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import (
    CARD_FILE,
    CHAT_TEMPLATE_FILE,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    GOLDEN_FILE,
    GRAPH_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Architecture,
    Lineage,
    Manifest,
    Precision,
    metadata_props,
)
from ml_service.common.errors import BundleRefused
from ml_service.common.stored_weights import Weights
from ml_service.training.card import CURVE_FILE, draw_curve, imported_card, model_card
from ml_service.training.families import NoGraph, family_of
from ml_service.training.golden import golden_sample
from ml_service.training.graph import OPSET, build_graph
from ml_service.training.plan import load_plan
from ml_service.training.progress import ProgressLog
from ml_service.training.run_files import MODEL_DIRECTORY, PROGRESS_FILE, load_facts
from ml_service.training.stored import architecture_of, as_served, network_weights

WEIGHTS_FILE = "model.onnx.data"
LARGEST_MESSAGE_BYTES = 2_000_000_000
"""protobuf ends at 2 GiB."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as far as that is known."""

    experiment: str
    training_commit: str
    dataset_fingerprint: str
    metrics: dict[str, float]
    licence: str
    lineage: Lineage


def export_bundle(
    run: Path,
    output: Path,
    precision: Precision,
    repository: Path,
    prove: Callable[[Path], None],
    licence: str,
    lineage: Lineage,
) -> Manifest:
    """Export a finished run. `output` appears complete and proved by `prove`, or not at all.

    Raises FileNotFoundError where the run is not finished, FileExistsError where `output` is in use, BundleRefused
    where the network is none that the graph can express.
    """
    plan = load_plan(run)
    model_directory = run / MODEL_DIRECTORY
    if not model_directory.is_dir():
        raise FileNotFoundError(f"{run} has no finished model: give its `train` command again, it goes on")
    facts = load_facts(run)
    points = list(ProgressLog(run / PROGRESS_FILE).points())
    origin = Origin(
        plan.experiment, facts["commit"], facts["dataset_fingerprint"], _final_scores(points), licence, lineage
    )

    def describe(directory: Path, manifest: Manifest, architecture: Architecture) -> None:
        draw_curve(points, directory / CURVE_FILE)
        (directory / CARD_FILE).write_text(model_card(plan, facts, manifest, architecture), encoding="utf-8")

    return _write(model_directory, output, precision, origin, repository, describe, prove)


def import_bundle(
    wanted: str | Path,
    output: Path,
    precision: Precision,
    repository: Path,
    prove: Callable[[Path], None],
    licence: str,
) -> Manifest:
    """Make a bundle of a transformers checkpoint: config.json, safetensors, tokenizer.json.

    `wanted` is its directory or its name on the hub. Raises ConnectionError where the hub does not give it,
    FileNotFoundError where one of the files is missing, FileExistsError where `output` is in use, BundleRefused
    where the network is none that the graph can express.
    """
    checkpoint, called = checkpoint_directory(wanted)
    for name in (CONFIG_FILE, TOKENIZER_FILE):
        if not (checkpoint / name).is_file():
            raise FileNotFoundError(f"{wanted} is no checkpoint that can be imported: it has no {name}")
    origin = Origin(called, UNKNOWN_COMMIT, UNKNOWN, {}, licence, Lineage())

    def describe(directory: Path, manifest: Manifest, architecture: Architecture) -> None:
        (directory / CARD_FILE).write_text(imported_card(manifest, architecture), encoding="utf-8")
        if (template := _chat_template(checkpoint)) is not None:
            (directory / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")

    return _write(checkpoint, output, precision, origin, repository, describe, prove)


def _chat_template(checkpoint: Path) -> str | None:
    """A file of its own, or a string in the tokenizer's configuration; several named ones are nobody's default."""
    if (path := checkpoint / CHAT_TEMPLATE_FILE).is_file():
        return path.read_text(encoding="utf-8")
    if not (path := checkpoint / "tokenizer_config.json").is_file():
        return None
    template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else None


def _write(
    checkpoint: Path,
    output: Path,
    precision: Precision,
    origin: Origin,
    repository: Path,
    describe: Callable[[Path, Manifest, Architecture], None],
    prove: Callable[[Path], None],
) -> Manifest:
    commit = str(current_commit(repository))  # before the bundle's own files can make the tree a changed one
    model = _load(checkpoint)
    weights = network_weights(model)
    architecture, graph = _graph(model, weights, precision)
    with staged_directory(output) as directory:
        shutil.copyfile(checkpoint / TOKENIZER_FILE, directory / TOKENIZER_FILE)
        tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
        write_json(directory / CONFIG_FILE, architecture.model_dump())
        golden = golden_sample(as_served(model, graph) if graph else model, tokenizer, architecture, precision)
        write_json(directory / GOLDEN_FILE, golden.model_dump())
        manifest = _manifest(origin, directory, precision, commit, count_parameters(model))
        if graph:
            onnx.helper.set_model_props(graph, metadata_props(manifest))
            save_graph(graph, directory)
        else:
            save_file(dict(weights), directory / CHECKPOINT_FILE, metadata_props(manifest))
        describe(directory, manifest, architecture)
        files = {path.name: sha256_of_file(path) for path in sorted(directory.iterdir())}
        manifest = manifest.model_copy(update={"files": files})
        write_json(directory / MANIFEST_FILE, manifest.model_dump())
        del model, graph, weights  # the proof opens the bundle: hold the weights only once
        prove(directory)
    return manifest


def _load(checkpoint: Path) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
    return model.eval()


def _graph(
    model: PreTrainedModel, weights: Weights, precision: Precision
) -> tuple[Architecture, onnx.ModelProto | None]:
    """No graph where the network is none that a graph can express: the bundle then holds the checkpoint."""
    try:
        family = family_of(model.config)
        architecture = architecture_of(model.config)
        return architecture, build_graph(architecture, family, weights, precision)
    except NoGraph as reason:
        if precision != "fp32":
            raise BundleRefused(f"{reason}: import it in fp32, and the torch runtime serves its checkpoint") from None
        return architecture_of(model.config, without_graph=str(reason)), None


def save_graph(graph: onnx.ModelProto, directory: Path) -> None:
    """Write the graph; its weights go into a file beside it where one protobuf message cannot hold them."""
    size_bytes = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    onnx.save(
        graph,
        str(directory / GRAPH_FILE),
        save_as_external_data=size_bytes > LARGEST_MESSAGE_BYTES,
        location=WEIGHTS_FILE,
    )


def _manifest(origin: Origin, directory: Path, precision: Precision, commit: str, parameters: int) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        experiment=origin.experiment,
        experiment_id=origin.lineage.experiment_id,
        parent_experiment_id=origin.lineage.parent_experiment_id,
        commit=commit,
        training_commit=origin.training_commit,
        date=now_utc(),
        precision=precision,
        parameters=parameters,
        dataset_fingerprint=origin.dataset_fingerprint,
        tokenizer_sha256=sha256_of_file(directory / TOKENIZER_FILE),
        opset=OPSET,
        versions=versions("torch", "transformers", "tokenizers", "onnx", "onnxruntime"),
        metrics=origin.metrics,
        licence=origin.licence,
        files={},
    )


def _final_scores(points: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for point in points:
        scores |= {name: value for name, value in point.items() if name.startswith("validation_")}
    return scores
