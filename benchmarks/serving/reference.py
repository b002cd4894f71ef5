"""Is a conversion right? The share of next tokens that a participant chooses as transformers does in fp32."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from benchmarks.serving.workers.protocol import Load, Request

PROMPTS = 4
TOKENS = 16
_PROMPT_TOKENS = 32


@cache
def reference_load(checkpoint: Path) -> tuple[Load, list[int]]:
    """Requests for one token, each after the prompt and what transformers said so far, and transformers' next tokens.

    So one token that differs costs one: a participant is not judged by the other path that its own answer then takes.
    """
    model = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    model.generation_config.eos_token_id = None
    source = random.Random(0)
    requests: list[Request] = []
    expected: list[int] = []
    for _ in range(PROMPTS):
        prompt = [source.randrange(1, model.config.vocab_size) for _ in range(_PROMPT_TOKENS)]
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        text = output[0].tolist()
        requests += [Request(text[: _PROMPT_TOKENS + index], 1) for index in range(TOKENS)]
        expected += text[_PROMPT_TOKENS:]
    return Load(requests, 1), expected


def agreement(tokens: list[list[int]], expected: list[int]) -> float:
    """The share of tokens that are equal."""
    return sum(row[0] == token for row, token in zip(tokens, expected, strict=True)) / len(expected)
