"""The sampler: equal to transformers' own processors, and a function of its row alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ml_service.common.errors import ModelFailure
from ml_service.common.types import GenerationParameters
from ml_service.inference.sampler import Sampler, filtered_distribution, penalise_seen

VOCABULARY = 50


def logits_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)


def penalised(logits: np.ndarray, history: list[int], penalty: float) -> np.ndarray:
    seen = np.isin(np.arange(VOCABULARY), history)
    return penalise_seen(logits, seen, GenerationParameters(repetition_penalty=penalty))


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 5),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.9),
)
def test_the_distribution_is_that_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(seed)
    ids, probabilities = filtered_distribution(logits, temperature, top_k, top_p, min_p)
    ours = np.zeros(VOCABULARY)
    ours[ids] = probabilities / probabilities.sum()
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(min(top_k, VOCABULARY)))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        processors.append(MinPLogitsWarper(min_p))
    scores = processors(torch.zeros((1, 0), dtype=torch.long), torch.from_numpy(logits.astype(np.float64))[None])
    theirs = torch.softmax(scores, -1)[0].numpy()
    borders = np.abs(ours - theirs) > 1e-6
    # A token that lies on a border within rounding may fall to either side; everything else must agree.
    assert borders.sum() == 0 or np.isclose(_distance_to_border(logits, temperature, top_p, min_p), 0, atol=1e-9)


def _distance_to_border(logits: np.ndarray, temperature: float, top_p: float, min_p: float) -> float:
    probabilities = np.sort(torch.softmax(torch.from_numpy(logits.astype(np.float64)) / temperature, 0).numpy())[::-1]
    mass = np.abs(np.cumsum(probabilities) - top_p).min()
    return float(min(mass, np.abs(probabilities - min_p * probabilities[0]).min()))


@given(seed=st.integers(0, 1000), penalty=st.floats(0.5, 3), history=st.lists(st.integers(0, VOCABULARY - 1)))
def test_the_repetition_penalty_is_that_of_transformers(seed: int, penalty: float, history: list[int]) -> None:
    logits = logits_of(seed)
    ours = penalised(logits, history, penalty)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    theirs = processor(torch.tensor([history], dtype=torch.long), torch.from_numpy(logits.copy())[None])[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    def tokens(seed: int) -> list[int]:
        sampler = Sampler(GenerationParameters(temperature=1.0), seed)
        return [sampler.choose(logits_of(step), []).token_id for step in range(50)]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(GenerationParameters(temperature=1.0), 0)
    counts = np.bincount([sampler.choose(logits, []).token_id for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.015)


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-10])
def test_a_temperature_next_to_nothing_is_greedy(temperature: float) -> None:
    for penalty in (0.01, 1.0, 10.0):
        sampler = Sampler(GenerationParameters(temperature=temperature, repetition_penalty=penalty), 0)
        logits = logits_of(1)
        assert sampler.choose(logits, [1, 2]).token_id == penalised(logits, [1, 2], penalty).argmax()


def test_greedy_takes_the_first_of_equal_tokens() -> None:
    assert Sampler(GenerationParameters(), 0).choose(np.array([1, 3, 3], np.float32), []).token_id == 1


def test_log_probabilities_are_those_of_the_model_before_any_parameter() -> None:
    logits = logits_of(3)
    choice = Sampler(GenerationParameters(temperature=0.5, top_k=3, logprobs=4), 1).choose(logits, [])
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 0).numpy()
    assert choice.logprob is not None
    assert choice.logprob.logprob == pytest.approx(expected[choice.token_id])
    assert [a.token_id for a in choice.alternatives] == np.argsort(-expected)[:4].tolist()


def test_logits_that_are_not_finite_are_a_failure_of_the_model() -> None:
    with pytest.raises(ModelFailure, match="not finite"):
        Sampler(GenerationParameters(), 0).choose(np.array([0, np.nan], np.float32), [])


def test_each_answer_of_a_request_has_random_numbers_of_its_own_and_the_first_those_of_a_single_one() -> None:
    def tokens(**stream: int) -> list[int]:
        sampler = Sampler(GenerationParameters(temperature=1.0), 5, **stream)
        return [sampler.choose(logits_of(step), []).token_id for step in range(50)]

    assert tokens(stream=0) == tokens()
    assert len({tuple(tokens(stream=stream)) for stream in range(4)}) == 4


def test_a_bias_forbids_and_forces_tokens() -> None:
    logits = logits_of(1)
    best = int(logits.argmax())
    assert Sampler(GenerationParameters(logit_bias={best: -100}), 0).choose(logits, []).token_id != best
    assert Sampler(GenerationParameters(logit_bias={7: 100}), 0).choose(logits, []).token_id == 7


@given(seed=st.integers(0, 1000), allowed=st.lists(st.booleans(), min_size=VOCABULARY, max_size=VOCABULARY).filter(any))
def test_only_what_is_allowed_is_chosen(seed: int, allowed: list[bool]) -> None:
    mask = np.array(allowed)
    for temperature in (0.0, 1.0, 10.0):
        sampler = Sampler(GenerationParameters(temperature=temperature, top_p=0.9, repetition_penalty=2.0), seed)
        assert mask[sampler.choose(logits_of(seed), [1, 2, 3], mask).token_id]


@given(st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=5), max_size=6))
def test_a_history_that_grows_is_penalised_as_one_that_comes_at_once(pieces: list[list[int]]) -> None:
    parameters = GenerationParameters(repetition_penalty=1.7)
    growing, history = Sampler(parameters, 0), []
    for step, piece in enumerate(pieces):
        history += piece
        at_once = Sampler(parameters, 0).choose(logits_of(step), history)
        assert growing.choose(logits_of(step), history) == at_once
