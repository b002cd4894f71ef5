"""Scores: windows that score each token once, likelihoods equal to PyTorch's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.scores import Score, nats_of, rolling_windows
from ml_service.common.bundle import load_architecture
from ml_service.inference.scoring import score_text
from ml_service.inference.session import OnnxSession
from ml_service.inference.torch_session import TorchSession


@given(st.lists(st.integers(1, 99), max_size=50), st.integers(1, 12))
def test_every_token_is_predicted_once_from_the_one_before(ids: list[int], length: int) -> None:
    windows = list(rolling_windows(ids, 0, length))
    assert [i for window in windows for i in window.targets] == ids
    assert [i for window in windows for i in window.inputs] == [0, *ids][: len(ids)]
    assert all(len(window.inputs) <= length for window in windows)


def test_likelihoods_are_those_of_pytorch_even_for_huge_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 200, (7, 30)).astype(np.float32)
    targets = list(range(7))
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.tensor(targets), reduction="none"
    )
    np.testing.assert_allclose(nats_of(logits, targets), expected.numpy(), rtol=1e-9, atol=1e-9)


def test_scores_add_and_convert() -> None:
    score = Score(8 * math.log(2), 4, 8) + Score(0.0, 4, 8)
    assert score.bits_per_byte == pytest.approx(0.5)
    assert score.byte_perplexity == pytest.approx(2**0.5)
    assert score.loss == pytest.approx(math.log(2))


def test_both_runtimes_give_a_text_the_same_likelihood(bundle_fp32: Path) -> None:
    architecture = load_architecture(bundle_fp32)
    ids = np.random.default_rng(0).integers(1, architecture.vocabulary_size, 150).tolist()
    scores = []
    for kind, chunk in ((OnnxSession, 16), (OnnxSession, 64), (TorchSession, 16)):
        session = kind(bundle_fp32, architecture, slots=1, chunk=chunk, threads=1)
        scores.append(score_text(session, ids, 400).nats)
        session.close()
    assert scores[1:] == pytest.approx([scores[0]] * 2, rel=1e-6)
