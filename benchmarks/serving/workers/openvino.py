"""OpenVINO GenAI: its continuous batching pipeline, fed in a closed loop, step by step.

Tuning: weights by optimum-intel and NNCF, int8 asymmetric per channel or int4 symmetric in groups of 64 (the embedding,
which is also the head, stays in 8 bit, its default); the u8 KV cache that it takes by itself; the latency hint, since
the throughput hint gives each stream one thread and is half as fast; fp32 rather than bf16 beside the integer products;
activations quantised in groups of 64 (128 was slower, at 4 bit by far); 256 tokens a step with split-and-fuse, which
was ahead of 64, 128 and 512 under the other hint and was not tried again; a cache that never runs out; the prefix cache
only where reuse is asked for, as by default.
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from benchmarks.serving.workers.protocol import Limits, Load, Request, main

BATCH_TOKENS = 256
CACHE_GB = 2
GROUP_SIZE = 64
_PROPERTIES = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP_SIZE,
}
_FOUR_BIT = ["--sym", "--group-size", str(GROUP_SIZE), "--ratio", "1.0"]


class OpenVinoGenAi:
    """One pipeline for each number of clients, with and without its prefix cache; kept once made."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits
        self._pipelines: dict[tuple[int, bool], Any] = {}
        self._request_id = 0

    def generate(self, load: Load) -> list[list[int]]:
        """It looks a prompt up in its prefix cache when the request comes, so requests come one by one, as clients'."""
        pipeline = self._pipeline(load.concurrency, load.reuse == "on")
        waiting = deque(enumerate(load.requests))
        running: dict[int, Any] = {}
        answers: list[list[int]] = [[] for _ in load.requests]
        while waiting or running:
            while waiting and len(running) < load.concurrency:
                index, request = waiting.popleft()
                running[index] = self._add(pipeline, request)
            pipeline.step()
            for index, handle in list(running.items()):
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    answers[index] = list(running.pop(index).read_all()[0].generated_ids)
        return answers

    def _pipeline(self, concurrency: int, is_prefix_cached: bool) -> Any:
        key = (concurrency, is_prefix_cached)
        if key not in self._pipelines:
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.cache_size = CACHE_GB
            scheduler.dynamic_split_fuse = True
            scheduler.max_num_batched_tokens = BATCH_TOKENS
            scheduler.max_num_seqs = concurrency
            scheduler.enable_prefix_caching = is_prefix_cached
            properties = _PROPERTIES | {"INFERENCE_NUM_THREADS": self._limits.threads}
            self._pipelines[key] = openvino_genai.ContinuousBatchingPipeline(
                str(self._directory), scheduler, "CPU", properties
            )
        return self._pipelines[key]

    def _add(self, pipeline: Any, request: Request) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = request.new_tokens
        config.ignore_eos = True
        config.do_sample = False
        self._request_id += 1
        ids = openvino.Tensor(np.asarray([request.prompt], np.int64))
        return pipeline.add_request(self._request_id, ids, config)


def convert(checkpoint: Path, directory: Path, bits: int) -> None:
    """Through optimum-intel's command, as its documentation has it."""
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", str(checkpoint)]
    command += ["--task", "text-generation-with-past", "--weight-format", f"int{bits}"]
    subprocess.run([*command, *(_FOUR_BIT if bits == 4 else []), str(directory)], check=True)


def open_model(directory: Path, limits: Limits) -> OpenVinoGenAi:
    """The pipelines come with the first request of their kind."""
    return OpenVinoGenAi(directory, limits)


if __name__ == "__main__":
    main(convert, open_model)
