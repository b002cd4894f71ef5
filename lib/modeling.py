"""Models built from a preset, which know their loss."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from lib.presets import PRESETS


class LanguageModel(Qwen3ForCausalLM):
    """A Qwen3 that is told the next tokens and answers with their loss; without them it is the plain one."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        *args: Any,
        next_tokens: torch.Tensor | None = None,
        reduction: str = "mean",
        **kwargs: Any,
    ) -> Any:
        """The loss in nats, mean or sum over the batch, where `next_tokens` (batch, tokens) are given."""
        if next_tokens is None:
            return super().forward(input_ids, *args, **kwargs)
        hidden_BTD = self.model(input_ids, *args, use_cache=False, **kwargs).last_hidden_state
        return next_token_loss(hidden_BTD.flatten(0, 1), self.lm_head.weight, next_tokens.flatten(), reduction)

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks of the network."""
        return list(self.model.layers)

    def load_weights(self, weights: dict[str, torch.Tensor]) -> str | None:
        """Take them; the name of the first one that does not fit or is missing, and then nothing is taken."""
        own: dict[str, torch.Tensor] = self.state_dict()
        tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        for name in sorted(own.keys() | weights.keys()):
            shapes = [held[name].shape if name in held else None for held in (own, weights)]
            if shapes[0] != shapes[1] and not (name in tied and shapes[1] is None):
                return name
        self.load_state_dict(weights, strict=False)
        return None

    def save(self, directory: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """As the plain Qwen3 that it is, in safetensors; `weights` where they are not those held here."""
        if weights is not None and self.config.tie_word_embeddings:
            weights = {name: weight for name, weight in weights.items() if name != "lm_head.weight"}
        self.save_pretrained(directory, state_dict=weights)
        path = directory / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"architectures": [Qwen3ForCausalLM.__name__]}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def next_token_loss(
    hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor, reduction: str
) -> torch.Tensor:
    """Cross-entropy of a linear head."""
    logits_NV = functional.linear(hidden_ND, head_VD).float()
    return functional.cross_entropy(logits_NV, targets_N, reduction=reduction)


def create_model(
    preset: str, vocabulary_size: int, context_length: int, end_of_text_id: int, rope_theta: float = 10_000.0
) -> LanguageModel:
    """A freshly initialised model in fp32. Raises KeyError for an unknown preset."""
    return LanguageModel(create_config(preset, vocabulary_size, context_length, end_of_text_id, rope_theta))


def create_config(
    preset: str, vocabulary_size: int, context_length: int, end_of_text_id: int, rope_theta: float = 10_000.0
) -> Qwen3Config:
    """The shape of a preset for a vocabulary. Raises KeyError for an unknown one."""
    return Qwen3Config(
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


def count_parameters(model: nn.Module) -> int:
    """Distinct parameters: tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())
