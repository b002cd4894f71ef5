"""Every family that the graph can express, against transformers: prefill, chunks, single steps; the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lib.tokenizer import save_tokenizer, train_byte_level_bpe
from ml_service.common.bundle import CHECKPOINT_FILE, Precision, load_architecture, load_manifest, metadata_props
from ml_service.common.errors import BundleRefused
from ml_service.common.settings import Settings
from ml_service.inference.caches import CachePrecision
from ml_service.inference.live import open_live_model
from ml_service.inference.operators import Arithmetic, compiled_operators
from ml_service.inference.session import OnnxSession, Row, Session
from ml_service.inference.torch_session import TorchSession, load_model
from ml_service.pipeline.stages import import_checkpoint
from ml_service.training.families import family_of
from ml_service.training.graph import build_graph
from ml_service.training.stored import architecture_of, network_weights
from ml_service.utils.telemetry import Telemetry

VOCABULARY = 320
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64,
    "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
GLOBAL_AND_LOCAL = {
    "full_attention": {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
GPT2 = {"n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, llama3 scaling": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama, biases, linear scaling": (
        "llama",
        {"attention_bias": True, "mlp_bias": True,
         "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
    ),
    "llama, yarn scaling": ("llama", {"rope_parameters": YARN}),
    "mistral, sliding window": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, windows in later layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "phi3": ("phi3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 24}),
    "gemma2, no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("gemma3_text", {"sliding_window": 6, "rope_parameters": GLOBAL_AND_LOCAL, "query_pre_attn_scalar": 24}),
}  # fmt: skip
PROMPT = [int(i) for i in np.random.default_rng(0).integers(1, VOCABULARY, 40)]
CHUNK = 16


def make_checkpoint(directory: Path, model_type: str, changes: dict[str, Any]) -> Path:
    """A small network with random weights, as transformers saves it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SMALL | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[1] ** -0.5
        offset = 1.0 if "norm" in name and not model_type.startswith("gemma") else 0.0
        torch.nn.init.normal_(parameter, offset, scale)
    model.save_pretrained(directory)
    save_tokenizer(train_byte_level_bpe(["def f(x):\n    return x\n"], VOCABULARY), directory / "tokenizer.json")
    return directory


def imported(tmp_path: Path, name: str, precision: Precision) -> Path:
    model_type, changes = FAMILIES[name]
    import_checkpoint(make_checkpoint(tmp_path / "checkpoint", model_type, changes), tmp_path / "bundle", precision)
    return tmp_path / "bundle"


def session_of(bundle: Path, kind: type[OnnxSession] | type[TorchSession] = OnnxSession, slots: int = 2) -> Session:
    return kind(bundle, load_architecture(bundle), slots=slots, chunk=CHUNK, threads=1)


def compiled_session_of(bundle: Path, cache_precision: CachePrecision) -> OnnxSession:
    arithmetic = Arithmetic(compiled_operators(), cache_precision)
    if arithmetic.library is None:
        pytest.skip("no compiled operators here")
    return OnnxSession(bundle, load_architecture(bundle), 2, CHUNK, 2, arithmetic)


def reference(tmp_path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> npt.NDArray[np.float32]:
    return np.asarray(model(torch.tensor([PROMPT]), use_cache=False).logits[0].numpy())


def read(session: Session, slot: int, lengths: list[int]) -> npt.NDArray[np.float32]:
    """The logits after each token of the prompt, read in pieces of these lengths."""
    pieces, position = [], 0
    for length in lengths:
        row = Row(slot, position, PROMPT[position : position + length], wants_all=True)
        pieces.append(session.run([row]).copy())
        position += length
    assert position == len(PROMPT)
    return np.concatenate(pieces)


READINGS = ([16, 16, 8], [3, 9, 1, 16, 11], [1] * len(PROMPT))
"""Whole chunks, uneven ones, single steps."""


@pytest.mark.parametrize("name", FAMILIES)
def test_fp32_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    bundle = imported(tmp_path, name, "fp32")
    expected = logits_of(reference(tmp_path))
    for kind in (OnnxSession, TorchSession):
        session = session_of(bundle, kind)
        for slot, lengths in zip((0, 1, 1), READINGS, strict=True):
            np.testing.assert_allclose(read(session, slot, lengths), expected, atol=2e-4 * max(1.0, expected.std()))
        session.close()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounded_weights_give_what_transformers_gives_with_them(
    tmp_path: Path, name: str, precision: Precision
) -> None:
    bundle = imported(tmp_path, name, precision)
    expected = logits_of(load_model(bundle, load_architecture(bundle)))
    for session in (session_of(bundle), compiled_session_of(bundle, "int8"), compiled_session_of(bundle, "fp32")):
        for lengths in READINGS:
            ours = read(session, 0, lengths)
            assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.99
        session.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rounded_cache_gives_nearly_what_transformers_gives(tmp_path: Path, name: str) -> None:
    bundle = imported(tmp_path, name, "fp32")
    expected = logits_of(reference(tmp_path))
    session = compiled_session_of(bundle, "int8")
    readings = [read(session, slot, lengths) for slot, lengths in zip((0, 1, 1), READINGS, strict=True)]
    session.close()
    assert np.corrcoef(readings[0].ravel(), expected.ravel())[0, 1] > 0.999
    assert (readings[1] == readings[0]).all() and (readings[2] == readings[0]).all()


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaling 'dynamic'"),
        ("phi3", {"partial_rotary_factor": 0.5}, "partial rotary"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "both directions"),
        ("gpt2", {}, "model type 'gpt2'"),
    ],
)
def test_what_the_graph_cannot_express_is_refused_in_words(
    model_type: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleRefused, match=words):
        family_of(AutoConfig.for_model(model_type, **(SMALL | changes)))


def test_a_weight_without_a_place_in_the_graph_is_refused_by_name(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_checkpoint(tmp_path, "llama", {}), dtype=torch.float32)
    weights = network_weights(model) | {"model.layers.0.self_attn.sinks": np.zeros(4, np.float32)}
    with pytest.raises(BundleRefused, match="no place for the weight"):
        build_graph(architecture_of(model.config), family_of(model.config), weights, "fp32")


@pytest.mark.parametrize(("model_type", "changes"), [("gpt2", GPT2), ("phi", {"partial_rotary_factor": 0.5})])
def test_what_has_no_graph_is_served_from_its_checkpoint_by_the_torch_runtime(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model_type, changes)
    with pytest.raises(BundleRefused, match="import it in fp32"):
        import_checkpoint(checkpoint, tmp_path / "bundle", "int8")
    manifest = import_checkpoint(checkpoint, tmp_path / "bundle", "fp32")
    with safe_open(tmp_path / "bundle" / CHECKPOINT_FILE, framework="np") as file:
        assert file.metadata() == metadata_props(manifest)
    session = session_of(tmp_path / "bundle", TorchSession)
    for lengths in READINGS:
        np.testing.assert_allclose(read(session, 0, lengths), logits_of(reference(tmp_path)), atol=1e-4)
    session.close()
    model = open_live_model(tmp_path / "bundle", Settings(slots=1, runtime="torch"), Telemetry())
    assert model.metadata["commit"] == load_manifest(tmp_path / "bundle").commit
    model.engine.stop()
    with pytest.raises(BundleRefused, match=f"model type '{model_type}': set ML_SERVICE_RUNTIME=torch"):
        open_live_model(tmp_path / "bundle", Settings(slots=1), Telemetry())


def test_a_checkpoint_of_the_hub_is_imported_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path / "snapshots" / "0a1b", "llama", {})
    asked: list[object] = []

    def snapshot_download(name: str, **options: object) -> str:
        asked.append((name, options))
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    manifest = import_checkpoint("owner/small-llama", tmp_path / "bundle", "fp32")
    assert manifest.experiment == "owner/small-llama"
    patterns = ["*.json", "*.safetensors", "*.jinja"]
    assert asked == [("owner/small-llama", {"repo_type": "model", "allow_patterns": patterns})]


def test_a_model_that_is_neither_here_nor_on_the_hub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ConnectionError, match="the hub gave no model 'owner/nothing'"):
        import_checkpoint("owner/nothing", tmp_path / "bundle", "fp32")
    with pytest.raises(FileNotFoundError, match=r"nothing is no checkpoint that can be imported"):
        import_checkpoint(tmp_path / "nothing", tmp_path / "bundle", "fp32")


def test_a_tokenizer_that_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", {"vocab_size": 250})
    with pytest.raises(BundleRefused, match="the tokenizer has"):
        import_checkpoint(checkpoint, tmp_path / "bundle", "fp32")


def test_a_checkpoint_that_does_not_say_how_a_text_ends_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", {"eos_token_id": None})
    with pytest.raises(BundleRefused, match="no token that ends a text"):
        import_checkpoint(checkpoint, tmp_path / "bundle", "fp32")


def test_several_end_tokens_are_all_kept(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", {"eos_token_id": [3, 5]})
    import_checkpoint(checkpoint, tmp_path / "bundle", "int8")
    architecture = load_architecture(tmp_path / "bundle")
    assert (architecture.end_of_text_id, architecture.further_end_ids) == (3, (5,))
