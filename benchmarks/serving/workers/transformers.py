"""transformers' `generate`, from the project's own environment: static batches, padded on the left.

Tuning: fp32 rather than bf16, which is slower where there is no AMX (22 against 27 tokens a second with one client on
M); scaled dot-product attention; its dynamic cache; 2 threads. It has no weights in 8 or 4 bit for a CPU, so it runs
once a shape, beside 8 bit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.serving.workers.protocol import Limits, Load, Request, answer_in_batches, main


class Transformers:
    """The model as it was saved."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        torch.set_num_threads(limits.threads)
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None

    def generate(self, load: Load) -> list[list[int]]:
        """Batch by batch."""
        return answer_in_batches(load, self._batch)

    def _batch(self, requests: list[Request]) -> list[list[int]]:
        longest = max(len(request.prompt) for request in requests)
        ids = torch.zeros(len(requests), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, longest - len(request.prompt) :] = 1
        output = self._model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(request.new_tokens for request in requests),
            do_sample=False,
            pad_token_id=0,
        )
        return [output[row, longest : longest + request.new_tokens].tolist() for row, request in enumerate(requests)]


def convert(checkpoint: Path, directory: Path, _bits: int) -> None:
    """It reads the checkpoint itself."""
    shutil.copytree(checkpoint, directory)


def open_model(directory: Path, limits: Limits) -> Transformers:
    """Load the model."""
    return Transformers(directory, limits)


if __name__ == "__main__":
    main(convert, open_model)
