"""Qwen3 presets, from `nano` to `1b`, and the models built from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from transformers import Qwen3Config, Qwen3ForCausalLM


@dataclass(frozen=True)
class Preset:
    """The shape of a model; parameters depend on the vocabulary too."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    tie_word_embeddings: bool = True


PRESETS: dict[str, Preset] = {
    "nano": Preset(192, 4, 3, 3, 64, 512),
    "mini": Preset(256, 4, 4, 2, 64, 768),
    "small": Preset(384, 8, 6, 3, 64, 1024),
    "base": Preset(768, 12, 12, 4, 64, 2560),
    "1b": Preset(2048, 12, 16, 8, 128, 8192, tie_word_embeddings=False),
}
"""With the default vocabulary of 8,192: 3, 5, 16 and 96 million parameters; `1b` has 960,881,664 with 50,257."""


def create_model(
    preset: str, vocabulary_size: int, context_length: int, end_of_text_id: int, rope_theta: float = 10_000.0
) -> Qwen3ForCausalLM:
    """A freshly initialised model in fp32. Raises KeyError for an unknown preset."""
    config = Qwen3Config(
        vocab_size=vocabulary_size,
        max_position_embeddings=context_length,
        bos_token_id=end_of_text_id,
        eos_token_id=end_of_text_id,
        pad_token_id=None,
        attn_implementation="sdpa",
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        use_cache=True,
        **asdict(PRESETS[preset]),
    )
    return Qwen3ForCausalLM(config)


def count_parameters(model: Qwen3ForCausalLM) -> int:
    """Distinct parameters: tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())
