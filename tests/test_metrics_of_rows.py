"""Figures of rows: equal to scikit-learn, jiwer and plain sums; intervals that hold what they promise; pure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from lib.bootstrap import percentile_interval, resampled_counts, resampled_sums
from lib.label_scores import accuracy, macro_f1, matthews_correlation
from lib.text_scores import bleu, character_edits, chrf, rouge_l, word_edits

pairs_of_labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(pairs_of_labels)
@pytest.mark.filterwarnings("ignore")  # scikit-learn tells where a label was never taken
def test_labels_score_as_scikit_learn_says(pairs: list[tuple[int, int]]) -> None:
    wanted, got = zip(*pairs, strict=True)
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (wanted, got), 1)
    assert accuracy(confusion) == pytest.approx(accuracy_score(wanted, got))
    assert macro_f1(confusion) == pytest.approx(f1_score(wanted, got, average="macro", zero_division=0))
    assert matthews_correlation(confusion) == pytest.approx(matthews_corrcoef(wanted, got))


def test_many_matrices_at_once_score_as_each_alone() -> None:
    many = np.random.default_rng(0).integers(0, 9, (20, 3, 3))
    for figure in (accuracy, macro_f1, matthews_correlation):
        np.testing.assert_allclose(figure(many), [figure(each) for each in many])


@given(texts, texts)
def test_edits_turn_one_text_into_the_other(wanted: str, got: str) -> None:
    assert character_edits(wanted, wanted).edits == 0
    edits, length = character_edits(wanted, got)
    assert edits <= max(len(wanted.strip()), len(got.strip()))
    assert length == len(wanted.strip())
    assert word_edits(wanted, got).length == len(wanted.split())


def test_words_of_any_script_count() -> None:
    assert rouge_l("Привет, мир!", "привет мир") == pytest.approx(1.0)
    assert rouge_l("Привет, мир!", "hello world") == 0.0
    assert rouge_l("a b c d", "a b x d") == pytest.approx(0.75)


def test_corpus_scores_are_those_of_sacrebleu() -> None:
    from sacrebleu import corpus_bleu, corpus_chrf

    wanted = ["the cat sat on the mat", "es ist ein kleines Haus", "съешь ещё этих булок"] * 3
    got = ["the cat sat on a mat", "es war ein kleines Haus", "съешь же ещё этих булок"] * 3
    for ours, theirs in ((bleu, corpus_bleu), (chrf, corpus_chrf)):
        value, low, high = ours(wanted, got, 100)
        assert value == pytest.approx(theirs(got, [wanted]).score)
        assert low <= value <= high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(0), 0
    for trial in range(200):
        rows = random.gamma(2.0, 3.0, (60, 1))
        low, high = percentile_interval(resampled_sums(rows, 200, seed=trial)[:, 0] / len(rows))
        held += low <= 6.0 <= high
    assert 0.87 <= held / 200 <= 0.99


def test_rows_of_few_kinds_resample_as_their_counts() -> None:
    counts = np.array([30, 50, 20])
    kinds = np.repeat(np.eye(3), counts, axis=0)
    ours, plain = resampled_counts(counts, 4000, seed=1), resampled_sums(kinds, 4000, seed=2)
    np.testing.assert_allclose(ours.mean(axis=0), plain.mean(axis=0), rtol=0.03)
    np.testing.assert_allclose(ours.std(axis=0), plain.std(axis=0), rtol=0.06)


def test_one_row_has_no_spread() -> None:
    sums = resampled_sums(np.array([[2.0, 3.0]]), 10)
    assert percentile_interval(sums[:, 0]) == (2.0, 2.0)
    assert math.isnan(percentile_interval([math.nan, 1.0])[0])
