"""Checkpoints for the comparison: Llama shapes with seeded random weights, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lib.corpora import standard_library
from lib.files import staged_directory
from lib.tokenizer import END_OF_TEXT, train_byte_level_bpe

Shape = Literal["S", "M"]
SHAPES: dict[Shape, dict[str, int]] = {
    "S": {
        "hidden_size": 256,
        "intermediate_size": 1152,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
    },
    "M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
}
"""S has 8.6 million parameters, M is SmolLM2-135M's shape; both have heads of 64 and tied embeddings."""
CONTEXT = 2048
EMBEDDING_STD = 0.02
"""Small beside what the layers add: else tied embeddings would make every token answer itself."""


def make_checkpoint(shape: Shape, directory: Path, seed: int = 0) -> None:
    """Write model and tokenizer; nothing where they are there already."""
    if directory.exists():
        return
    with staged_directory(directory) as temporary:
        random_model(shape, seed).save_pretrained(temporary)
        _tokenizer(SHAPES[shape]["vocab_size"]).save_pretrained(temporary)


def random_model(shape: Shape, seed: int) -> LlamaForCausalLM:
    """Each product keeps the variance of what it reads, so that greedy text wanders instead of repeating a token."""
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            torch.nn.init.normal_(parameter, std=EMBEDDING_STD)
        elif parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def _tokenizer(vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Participants that take token ids still want a tokenizer beside the model; ours makes text of every token."""
    texts = (file.path.read_text(encoding="utf-8", errors="ignore") for file in standard_library())
    tokenizer = train_byte_level_bpe(texts, vocabulary_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
