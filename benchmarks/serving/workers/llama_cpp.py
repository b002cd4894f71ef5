"""llama.cpp through llama-cpp-python's low-level interface: continuous batching, as its server does it.

Tuning: compiled on this machine (AVX-512, VNNI, BF16, OpenMP, weights repacked at load); Q8_0 and Q4_0; one KV cache
for all sequences, which with 8 of them is three times as fast as a stream for each; flash attention and the fp16 cache
as they come by default; prompts are read in pieces beside the tokens of running sequences; the likeliest token is taken
with numpy, far cheaper than its own sampler over a whole vocabulary. A shared beginning is read once and then belongs
to each sequence (`llama_memory_seq_cp`).
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks.serving.workers.gguf_file import write_gguf
from benchmarks.serving.workers.protocol import Limits, Load, Request, main

BATCH_TOKENS = 512
FORMATS = {8: llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, 4: llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
_FILE = "model.gguf"


@dataclass
class Running:
    """A request in a sequence of the KV cache."""

    request: Request
    sequence: int
    read: int = 0
    """So many tokens of the prompt are in the cache."""
    tokens: list[int] = field(default_factory=list)

    @property
    def is_reading(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self.read < len(self.request.prompt)


class LlamaCpp:
    """One model and one context, whose last sequence keeps a shared beginning."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            str(directory / _FILE).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_seq_max = limits.slots + 1
        parameters.n_ctx = (limits.slots + 1) * limits.context
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = limits.threads
        parameters.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        self._vocabulary_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._shared_sequence = limits.slots

    def generate(self, load: Load) -> list[list[int]]:
        """Each step takes one token of every running sequence and fills up with prompts."""
        llama_cpp.llama_memory_clear(self._memory, True)
        shared = load.shared_tokens if load.reuse == "on" else 0
        if shared:
            self._step([Running(Request(load.requests[0].prompt[:shared], 1), self._shared_sequence)])
        waiting = deque(Running(request, 0) for request in load.requests)
        everyone = list(waiting)
        free = list(range(load.concurrency))
        running: list[Running] = []
        while waiting or running:
            while waiting and free:
                running.append(self._start(waiting.popleft(), free.pop(), shared))
            self._step(running)
            for done in [one for one in running if len(one.tokens) == one.request.new_tokens]:
                running.remove(done)
                free.append(done.sequence)
                llama_cpp.llama_memory_seq_rm(self._memory, done.sequence, -1, -1)
        return [one.tokens for one in everyone]

    def _start(self, one: Running, sequence: int, shared_tokens: int) -> Running:
        one.sequence = sequence
        if shared_tokens:
            llama_cpp.llama_memory_seq_cp(self._memory, self._shared_sequence, sequence, -1, -1)
            one.read = shared_tokens
        return one

    def _step(self, running: list[Running]) -> None:
        batch = self._batch
        batch.n_tokens = 0
        asking: list[tuple[Running, int]] = []
        for one in running:
            if not one.is_reading:
                asking.append((one, batch.n_tokens))
                position = len(one.request.prompt) + len(one.tokens) - 1
                self._add(one.tokens[-1], position, one.sequence, wants_logits=True)
        for one in running:
            if not one.is_reading:
                continue
            piece = one.request.prompt[one.read : one.read + BATCH_TOKENS - batch.n_tokens]
            for token in piece:
                one.read += 1
                self._add(token, one.read - 1, one.sequence, wants_logits=not one.is_reading)
            if not one.is_reading:
                asking.append((one, batch.n_tokens - 1))
        failed = llama_cpp.llama_decode(self._context, batch)
        assert not failed, f"llama_decode answered {failed}"
        for one, index in asking:
            logits_V = np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(self._context, index), (self._vocabulary_size,)
            )
            one.tokens.append(int(logits_V.argmax()))

    def _add(self, token: int, position: int, sequence: int, *, wants_logits: bool) -> None:
        batch, index = self._batch, self._batch.n_tokens
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = wants_logits
        batch.n_tokens += 1


def convert(checkpoint: Path, directory: Path, bits: int) -> None:
    """Write fp32, then let llama.cpp quantise it; a tied embedding is also the head, and is quantised as one."""
    directory.mkdir(parents=True)
    whole = directory / "fp32.gguf"
    write_gguf(checkpoint, whole)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FORMATS[bits]
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(directory / _FILE).encode(), ctypes.byref(parameters)):
        raise SystemExit("llama.cpp could not quantise the model")
    whole.unlink()


def open_model(directory: Path, limits: Limits) -> LlamaCpp:
    """Load the model."""
    return LlamaCpp(directory, limits)


if __name__ == "__main__":
    main(convert, open_model)
