"""CTranslate2: its own batches, each row ended by its callback; int8 only, as its 4 bit (AWQ) needs a GPU.

Tuning: int8 weights and activations, one replica with 2 threads, the prompt read at once, all requests given at once
with batches as wide as there are clients: it sorts them by length, so that little is padded. The callback costs 3 % and
saves the rest of a finished row. Shared beginnings go in as its cached static prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
from ctranslate2.converters import TransformersConverter
from transformers import AutoTokenizer

from benchmarks.serving.workers.protocol import Limits, Load, main

_TOKENIZER = "source"


class CTranslate2:
    """One generator."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._generator = ctranslate2.Generator(
            str(directory), device="cpu", compute_type="int8", inter_threads=1, intra_threads=limits.threads
        )
        tokenizer = AutoTokenizer.from_pretrained(directory / _TOKENIZER)
        self._tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))

    def generate(self, load: Load) -> list[list[int]]:
        """The least and the greatest length are one for a call, so a callback ends each row at its own."""
        new_tokens = [request.new_tokens for request in load.requests]
        shared = load.shared_tokens if load.reuse == "on" else 0
        prompts = [self._words(request.prompt[shared:]) for request in load.requests]
        counts = [0] * len(prompts)

        def is_complete(step: Any) -> bool:
            counts[step.batch_id] += 1
            return bool(counts[step.batch_id] >= new_tokens[step.batch_id])

        results = self._generator.generate_batch(
            prompts,
            max_batch_size=load.concurrency,
            max_length=max(new_tokens),
            min_length=max(new_tokens),
            static_prompt=self._words(load.requests[0].prompt[:shared]) or None,
            include_prompt_in_result=False,
            callback=is_complete,
        )
        return [result.sequences_ids[0] for result in results]

    def _words(self, ids: list[int]) -> list[str]:
        return [self._tokens[token_id] for token_id in ids]


def convert(checkpoint: Path, directory: Path, bits: int) -> None:
    """Through its transformers converter."""
    assert bits == 8, "it has no other precision on a CPU"
    TransformersConverter(str(checkpoint)).convert(str(directory), quantization="int8")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(directory / _TOKENIZER)


def open_model(directory: Path, limits: Limits) -> CTranslate2:
    """Load the model."""
    return CTranslate2(directory, limits)


if __name__ == "__main__":
    main(convert, open_model)
