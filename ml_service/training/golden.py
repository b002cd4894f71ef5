"""The golden sample: a prompt, its first logits and its greedy tokens, as PyTorch gives them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from ml_service.common.bundle import Architecture, Golden, Precision

GOLDEN_TEXT = 'def read_lines(path):\n    """Return the lines of a file, without their ends."""\n    with open(path) as'
GOLDEN_TOKENS = 32
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "int8": 0.3, "int4": 0.3}
"""How far a logit may be from PyTorch's, in standard deviations of the logits. In 8 and 4 bit the activations are
rounded too, and where a value lies on the edge another processor rounds it otherwise: over 100 prompts the shipped
model's worst logit was 0.2 off."""


@torch.no_grad()
def golden_sample(
    model: PreTrainedModel, tokenizer: Tokenizer, architecture: Architecture, precision: Precision
) -> Golden:
    """What PyTorch answers to a fixed prompt, greedily, token by token."""
    prompt_ids = _prompt(tokenizer, architecture)
    ids, margins, first_logits = list(prompt_ids), [], None
    for _ in range(min(GOLDEN_TOKENS, architecture.context_length - len(prompt_ids))):
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
        tolerance=TOLERANCE[precision] * float(first_logits.std()),
    )


def _prompt(tokenizer: Tokenizer, architecture: Architecture) -> list[int]:
    """Whatever the tokenizer makes of the text; where it makes nothing of it, the token that ends a text."""
    ids = tokenizer.encode(GOLDEN_TEXT, add_special_tokens=False).ids[: architecture.context_length // 2]
    return [i for i in ids if i < architecture.vocabulary_size] or [architecture.end_of_text_id]
