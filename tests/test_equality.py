"""Both runtimes against transformers: greedy, token for token, over 200 prompts; and against each other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from benchmarks.equality import greedy
from lib.document_shards import iterate_documents
from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import TOKENIZER_FILE, load_architecture
from ml_service.inference.session import OnnxSession, Row, Session
from ml_service.inference.torch_session import TorchSession
from ml_service.training.run_files import MODEL_DIRECTORY

PROMPTS = 200
NEW_TOKENS = 12
LONGEST_PROMPT = 50
NOISE = 1e-4
"""Where PyTorch's own two best logits are closer than this, rounding alone decides."""


@pytest.fixture(scope="module")
def prompts(dataset: Path, bundle_fp32: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(bundle_fp32 / TOKENIZER_FILE)
    ids = [i for document in iterate_documents(dataset, "validation") for i in tokenizer.encode(document.text).ids]
    source = random.Random(0)
    starts = [source.randrange(len(ids) - LONGEST_PROMPT) for _ in range(PROMPTS)]
    return [ids[start : start + source.randint(1, LONGEST_PROMPT)] for start in starts]


@pytest.fixture(scope="module")
def reference(run: Path) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(run / MODEL_DIRECTORY, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def expected(reference: Qwen3ForCausalLM, prompts: list[list[int]]) -> list[list[int]]:
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
        answers.append(output[0, len(prompt) :].tolist())
    return answers


@pytest.fixture(scope="module", params=[OnnxSession, TorchSession])
def session(request: pytest.FixtureRequest, bundle_fp32: Path) -> Iterator[Session]:
    session = request.param(bundle_fp32, load_architecture(bundle_fp32), slots=4, chunk=16, threads=1)
    yield session
    session.close()


def test_greedy_tokens_are_those_of_transformers_generate(
    session: Session, reference: Qwen3ForCausalLM, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    for number, (prompt, answer) in enumerate(zip(prompts, expected, strict=True)):
        ours = greedy(session, prompt, NEW_TOKENS, slot=number % session.slots)
        if ours != answer:
            same = next(i for i, (a, b) in enumerate(zip(ours, answer, strict=True)) if a != b)
            assert _margin(reference, prompt + answer[:same]) < NOISE, f"prompt {number}: {ours} is not {answer}"


@torch.no_grad()
def _margin(reference: Qwen3ForCausalLM, ids: list[int]) -> float:
    best = torch.topk(reference(torch.tensor([ids])).logits[0, -1], 2).values
    return float(best[0] - best[1])


def test_a_used_slot_answers_as_a_fresh_one(session: Session, prompts: list[list[int]]) -> None:
    longest = max(prompts, key=len)
    fresh = greedy(session, prompts[0], NEW_TOKENS, slot=3)
    greedy(session, longest, NEW_TOKENS, slot=3)
    assert greedy(session, prompts[0], NEW_TOKENS, slot=3) == fresh


def test_logits_of_all_tokens_are_those_of_each_prefix(session: Session, prompts: list[list[int]]) -> None:
    prompt = max(prompts, key=len)[: session.chunk]
    every = session.run([Row(0, 0, prompt, wants_all=True)])
    assert every.shape == (len(prompt), session.architecture.vocabulary_size)
    for length in (1, len(prompt) // 2, len(prompt)):
        last = session.run([Row(1, 0, prompt[:length])])[0]
        np.testing.assert_allclose(every[length - 1], last, atol=1e-4)


def test_the_torch_runtime_reads_the_rounded_weights_that_the_graph_has(
    bundle: Path, bundle_int4: Path, prompts: list[list[int]]
) -> None:
    for directory in (bundle, bundle_int4):
        architecture = load_architecture(directory)
        onnx_session = OnnxSession(directory, architecture, slots=1, chunk=64, threads=1)
        torch_session = TorchSession(directory, architecture, slots=1, chunk=64, threads=1)
        for prompt in prompts[:20]:
            ours, theirs = onnx_session.run([Row(0, 0, prompt)])[0], torch_session.run([Row(0, 0, prompt)])[0]
            assert np.abs(ours - theirs).max() < 0.3 * theirs.std()
            assert np.corrcoef(ours, theirs)[0, 1] > 0.999
        onnx_session.close()
        torch_session.close()
