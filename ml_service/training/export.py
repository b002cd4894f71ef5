"""From a trained run to a bundle: graph, metadata, golden sample, manifest, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from lib.files import sha256_of_file, staged_directory, write_json
from lib.provenance import current_commit, now_utc, versions
from lib.quantization import dequantize_blocks, quantize_blocks
from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import (
    BLOCK_SIZE,
    CARD_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    GOLDEN_FILE,
    GRAPH_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Architecture,
    Golden,
    Manifest,
    Precision,
    metadata_props,
)
from ml_service.common.errors import BundleRefused
from ml_service.training.card import CURVE_FILE, draw_curve, model_card
from ml_service.training.graph import OPSET, Weights, build_graph
from ml_service.training.plan import TrainingPlan, load_plan
from ml_service.training.progress import PROGRESS_FILE, ProgressLog
from ml_service.training.workflow import MODEL_DIRECTORY, RUN_FILE

WEIGHTS_FILE = "model.onnx.data"
LARGEST_MESSAGE_BYTES = 2_000_000_000
"""protobuf ends at 2 GiB."""
GOLDEN_TEXT = 'def read_lines(path):\n    """Return the lines of a file, without their ends."""\n    with open(path) as'
GOLDEN_TOKENS = 32
TOLERANCE: dict[Precision, float] = {"fp32": 2e-3, "int8": 0.25}
"""How far a logit may be from PyTorch's. In 8 bit the activations are quantised too, differently on each processor."""


def export_bundle(
    run: Path, output: Path, precision: Precision, repository: Path, prove: Callable[[Path], None], licence: str = "MIT"
) -> Manifest:
    """Export a finished run. `output` appears complete and proved by `prove`, or not at all.

    Raises FileNotFoundError where the run is not finished, FileExistsError where `output` is in use, BundleRefused
    where the network is none that the graph can express.
    """
    plan = load_plan(run)
    model_directory = run / MODEL_DIRECTORY
    if not model_directory.is_dir():
        raise FileNotFoundError(f"{run} has no finished model: give its `train` command again, it goes on")
    transformers_logging.disable_progress_bar()
    facts = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    model = Qwen3ForCausalLM.from_pretrained(model_directory, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(model_directory / TOKENIZER_FILE)
    architecture = architecture_of(model.config)
    weights = stored_weights(model, precision)
    commit = str(current_commit(repository))  # before the bundle's own files can make the tree a changed one
    with staged_directory(output) as directory:
        shutil.copyfile(model_directory / TOKENIZER_FILE, directory / TOKENIZER_FILE)
        write_json(directory / CONFIG_FILE, architecture.model_dump())
        golden = golden_sample(_with_weights(model, weights), tokenizer, precision)
        write_json(directory / GOLDEN_FILE, golden.model_dump())
        manifest = _manifest(plan, facts, directory, precision, commit, _final_scores(run), licence)
        graph = build_graph(architecture, weights, precision)
        onnx.helper.set_model_props(graph, metadata_props(manifest))
        save_graph(graph, directory)
        draw_curve(ProgressLog(run / PROGRESS_FILE).points(), directory / CURVE_FILE)
        (directory / CARD_FILE).write_text(model_card(plan, facts, manifest, architecture), encoding="utf-8")
        files = {path.name: sha256_of_file(path) for path in sorted(directory.iterdir())}
        manifest = manifest.model_copy(update={"files": files})
        write_json(directory / MANIFEST_FILE, manifest.model_dump())
        prove(directory)
    return manifest


def save_graph(graph: onnx.ModelProto, directory: Path) -> None:
    """Write the graph; its weights go into a file beside it where one protobuf message cannot hold them."""
    size_bytes = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    onnx.save(
        graph,
        str(directory / GRAPH_FILE),
        save_as_external_data=size_bytes > LARGEST_MESSAGE_BYTES,
        location=WEIGHTS_FILE,
    )


def architecture_of(config: Qwen3Config) -> Architecture:
    """The runtimes' view of a configuration. Raises BundleRefused for what the graph cannot express."""
    rope = getattr(config, "rope_parameters", None) or {}
    refusals = {
        f"model type {config.model_type!r}": config.model_type != "qwen3",
        "attention bias": bool(getattr(config, "attention_bias", False)),
        "sliding windows": bool(getattr(config, "use_sliding_window", False)),
        f"rotary scaling {rope.get('rope_type')!r}": rope.get("rope_type", "default") != "default",
        f"activation {config.hidden_act!r}": config.hidden_act != "silu",
    }
    if refused := [what for what, applies in refusals.items() if applies]:
        raise BundleRefused(f"the serving graph cannot express {', '.join(refused)}")
    return Architecture(
        model_type="qwen3",
        vocabulary_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        intermediate_size=config.intermediate_size,
        rms_norm_epsilon=config.rms_norm_eps,
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
        tied_embeddings=config.tie_word_embeddings,
        end_of_text_id=config.eos_token_id,
    )


def stored_weights(model: Qwen3ForCausalLM, precision: Precision) -> Weights:
    """The weights as the bundle stores them, in fp32: in `int8` each matrix has gone to its codes and back."""
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for name, tensor in model.state_dict().items():
        weight = tensor.detach().to(torch.float32).numpy()
        if precision == "int8" and weight.ndim == 2:
            weight = dequantize_blocks(*quantize_blocks(weight, BLOCK_SIZE))
        weights[name] = weight
    return weights


def golden_sample(model: Qwen3ForCausalLM, tokenizer: Tokenizer, precision: Precision) -> Golden:
    """What PyTorch answers to a fixed prompt, greedily, token by token."""
    context = model.config.max_position_embeddings
    prompt_ids = tokenizer.encode(GOLDEN_TEXT, add_special_tokens=False).ids[: context // 2]
    ids, margins, first_logits = list(prompt_ids), [], None
    tokens = min(GOLDEN_TOKENS, context - len(prompt_ids))
    with torch.no_grad():
        for _ in range(tokens):
            logits_V = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            first_logits = logits_V if first_logits is None else first_logits
            best = torch.topk(logits_V, 2)
            margins.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
    assert first_logits is not None, "half of the context is left for the answer"
    return Golden(
        prompt_ids=prompt_ids,
        first_logits=[round(float(value), 5) for value in first_logits],
        greedy_ids=ids[len(prompt_ids) :],
        margins=[round(margin, 5) for margin in margins],
        tolerance=TOLERANCE[precision],
    )


def _with_weights(model: Qwen3ForCausalLM, weights: Weights) -> Qwen3ForCausalLM:
    model.load_state_dict({name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()})
    return model


def _manifest(
    plan: TrainingPlan,
    facts: Mapping[str, Any],
    directory: Path,
    precision: Precision,
    commit: str,
    metrics: dict[str, float],
    licence: str,
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        experiment=plan.experiment,
        experiment_id=None,
        parent_experiment_id=None,
        commit=commit,
        training_commit=facts["commit"],
        date=now_utc(),
        precision=precision,
        parameters=facts["parameters"],
        dataset_fingerprint=facts["dataset_fingerprint"],
        tokenizer_sha256=sha256_of_file(directory / TOKENIZER_FILE),
        opset=OPSET,
        versions=versions("torch", "transformers", "tokenizers", "onnx", "onnxruntime"),
        metrics=metrics,
        licence=licence,
        files={},
    )


def _final_scores(run: Path) -> dict[str, float]:
    scores: dict[str, float] = {}
    for point in ProgressLog(run / PROGRESS_FILE).points():
        scores |= {name: value for name, value in point.items() if name.startswith("validation_")}
    return scores
