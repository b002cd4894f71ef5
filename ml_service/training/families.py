"""Which networks the serving graph can express, read from a transformers configuration; the others are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ml_service.common.errors import BundleRefused

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text")
ROTARY_SCALINGS = ("default", "linear", "llama3", "yarn")
"""Those whose angles are the same at every length."""
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


class NoGraph(BundleRefused):
    """The serving graph cannot express a network."""


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding: the angle of a position is the position times the frequencies."""

    frequencies: npt.NDArray[np.float32]
    """(rotary size / 2,)"""
    factor: float
    """Of both cosine and sine."""


@dataclass(frozen=True)
class Layer:
    """What differs between the layers of a network."""

    window: int
    """How many tokens a token sees, itself included; 0 is all."""
    rotary: Rotary


@dataclass(frozen=True)
class Family:
    """What the graph must know of a network beyond the names and shapes of its weights."""

    activation: str
    epsilon: float
    """Of every norm."""
    norm_offset: float
    """Added to the weight of every norm."""
    embedding_factor: float
    attention_scale: float
    attention_cap: float
    """Attention scores pass through cap * tanh(score / cap); 0 is none."""
    logit_cap: float
    layers: tuple[Layer, ...]


def family_of(config: PretrainedConfig) -> Family:
    """Read a configuration. Raises NoGraph, in words, for what the graph cannot express."""
    _refuse_what_is_foreign(config)
    is_gemma = config.model_type.startswith("gemma")
    head_size = head_size_of(config)
    return Family(
        activation=ACTIVATIONS[_activation_of(config)],
        epsilon=config.rms_norm_eps,
        norm_offset=1.0 if is_gemma else 0.0,
        embedding_factor=float(config.hidden_size**0.5) if is_gemma else 1.0,
        attention_scale=(getattr(config, "query_pre_attn_scalar", None) or head_size) ** -0.5,
        attention_cap=getattr(config, "attn_logit_softcapping", None) or 0.0,
        logit_cap=getattr(config, "final_logit_softcapping", None) or 0.0,
        layers=tuple(_layers(config)),
    )


def head_size_of(config: PretrainedConfig) -> int:
    """The width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _refuse_what_is_foreign(config: PretrainedConfig) -> None:
    if config.model_type not in FAMILIES:
        raise NoGraph(f"the serving graph cannot express model type {config.model_type!r}")
    activation = _activation_of(config)
    refusals = {
        f"activation {activation!r}": activation not in ACTIVATIONS,
        "partial rotary embedding": getattr(config, "partial_rotary_factor", 1.0) not in (None, 1.0),
        "attention in both directions": bool(getattr(config, "use_bidirectional_attention", False)),
        "tensor parallelism of the pre-training": getattr(config, "pretraining_tp", 1) not in (None, 1),
    }
    if refused := [what for what, applies in refusals.items() if applies]:
        raise NoGraph(f"the serving graph cannot express {', '.join(refused)}")


def _activation_of(config: PretrainedConfig) -> str:
    name = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return "gelu_pytorch_tanh" if config.model_type == "gemma" else str(name)


def _layers(config: PretrainedConfig) -> list[Layer]:
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None) or 0
    layers = []
    for index in range(config.num_hidden_layers):
        kind = kinds[index] if kinds else ("sliding_attention" if window else "full_attention")
        if kind not in ("full_attention", "sliding_attention"):
            raise NoGraph(f"the serving graph cannot express layers of {kind!r}")
        layers.append(Layer(window if kind == "sliding_attention" else 0, _rotary(config, kind)))
    return layers


def _rotary(config: PretrainedConfig, kind: str) -> Rotary:
    parameters: dict[str, Any] = config.rope_parameters
    by_kind = {"layer_type": kind} if kind in parameters else {}
    parameters = parameters.get(kind, parameters)
    scaling = parameters.get("rope_type", "default")
    if scaling not in ROTARY_SCALINGS:
        raise NoGraph(f"the serving graph cannot express rotary scaling {scaling!r}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise NoGraph("the serving graph cannot express partial rotary embedding")
    if scaling == "default":
        size = head_size_of(config)
        exponents = torch.arange(0, size, 2, dtype=torch.float) / size
        return Rotary((1.0 / parameters["rope_theta"] ** exponents).numpy(), 1.0)
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling](config, torch.device("cpu"), **by_kind)
    return Rotary(frequencies.numpy(), float(factor))
