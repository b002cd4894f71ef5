"""Scores: windows that score each token once, likelihoods equal to PyTorch's; pure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.scores import Score, nats_of, rolling_windows


@given(st.lists(st.integers(1, 99), max_size=50), st.integers(1, 12))
def test_every_token_is_predicted_once_from_the_one_before(ids: list[int], length: int) -> None:
    windows = list(rolling_windows(ids, 0, length))
    assert [i for window in windows for i in window.targets] == ids
    assert all(len(window.inputs) <= length for window in windows)


@given(st.lists(st.integers(1, 99), max_size=50), st.integers(1, 12))
def test_windows_are_those_of_the_harness(ids: list[int], length: int) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    theirs = [make_disjoint_window(pair) for pair in get_rolling_token_windows(ids, 0, length, 1)]
    ours = [(w.inputs[: w.first + 1], w.targets) for w in rolling_windows(ids, 0, length)]
    assert ours == theirs


def test_likelihoods_are_those_of_pytorch_even_for_huge_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 200, (40, 50)).astype(np.float32)
    targets = list(range(40))
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.tensor(targets), reduction="none"
    )
    bests = logits.argmax(axis=1).tolist()
    for known in (None, bests):
        np.testing.assert_allclose(nats_of(logits.copy(), targets, known), expected.numpy(), rtol=1e-6, atol=1e-6)


def test_scores_add_and_convert() -> None:
    score = Score(8 * math.log(2), 4, 8) + Score(0.0, 4, 8)
    assert score.bits_per_byte == pytest.approx(0.5)
    assert score.byte_perplexity == pytest.approx(2**0.5)
    assert score.loss == pytest.approx(math.log(2))
