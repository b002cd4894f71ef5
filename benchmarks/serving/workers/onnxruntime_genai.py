"""ONNX Runtime GenAI: static batches, since its continuous ones need paged attention on CUDA or WebGPU.

Tuning: the model builder's int8 and int4 for the CPU (blocks of 32, accuracy level 4: int8 arithmetic), one generator a
batch, the KV cache in place (`past_present_share_buffer`) and no longer than the batch needs, 2 threads. A row that has
all its tokens goes on with the others until the longest is done. Its prefix reuse (`rewind_to`) is for one
conversation, not for a batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai

from benchmarks.serving.workers.protocol import Limits, Load, Request, answer_in_batches, main


class OnnxRuntimeGenAi:
    """One model; a generator for each batch."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        config = onnxruntime_genai.Config(str(directory))
        session_options = {"intra_op_num_threads": limits.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session_options}}}))
        self._model = onnxruntime_genai.Model(config)
        self._pad_id = 0

    def generate(self, load: Load) -> list[list[int]]:
        """Batch by batch."""
        return answer_in_batches(load, self._batch)

    def _batch(self, requests: list[Request]) -> list[list[int]]:
        longest = max(len(request.prompt) for request in requests)
        new_tokens = max(request.new_tokens for request in requests)
        prompts = np.full((len(requests), longest), self._pad_id, np.int32)
        for row, request in enumerate(requests):
            prompts[row, longest - len(request.prompt) :] = request.prompt
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        length = longest + new_tokens
        # The end of text is masked until the least length, so that every row goes on to its last token.
        parameters.set_search_options(
            batch_size=len(requests),
            max_length=length,
            min_length=length,
            do_sample=False,
            past_present_share_buffer=True,
        )
        generator = onnxruntime_genai.Generator(self._model, parameters)
        generator.append_tokens(prompts)
        while not generator.is_done():
            generator.generate_next_token()
        return [
            generator.get_sequence(row)[longest : longest + request.new_tokens].tolist()
            for row, request in enumerate(requests)
        ]


def convert(checkpoint: Path, directory: Path, bits: int) -> None:
    """Through the package's own model builder."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-i", str(checkpoint)]
    command += ["-o", str(directory), "-p", f"int{bits}", "-e", "cpu", "-c", str(directory / "cache")]
    subprocess.run([*command, "--extra_options", "accuracy_level=4"], check=True)


def open_model(directory: Path, limits: Limits) -> OnnxRuntimeGenAi:
    """Load the model."""
    return OnnxRuntimeGenAi(directory, limits)


if __name__ == "__main__":
    main(convert, open_model)
