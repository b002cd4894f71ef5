"""Shapes of our models by name; known without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """The shape of a Qwen3; parameters depend on the vocabulary too."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    tie_word_embeddings: bool = True


PRESETS: dict[str, Preset] = {
    "pico": Preset(128, 4, 2, 2, 64, 384),
    "nano": Preset(192, 4, 3, 3, 64, 512),
    "mini": Preset(256, 4, 4, 2, 64, 768),
    "small": Preset(384, 8, 6, 3, 64, 1024),
    "base": Preset(768, 12, 12, 4, 64, 2560),
    "1b": Preset(2048, 12, 16, 8, 128, 8192, tie_word_embeddings=False),
}
"""With the default vocabulary of 8,192: 2, 3, 5, 16 and 96 million parameters; `1b` has 960,881,664 with 50,257."""


def preset_of(configuration: Mapping[str, Any]) -> str | None:
    """The preset whose shape a transformers configuration has; None where there is none."""
    if configuration.get("model_type") != "qwen3":
        return None
    for name, preset in PRESETS.items():
        if all(configuration.get(field) == value for field, value in asdict(preset).items()):
            return name
    return None
