"""What measurements amount to: percentiles, rates and counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_service.pipeline.load.outcomes import (
    Distribution,
    Measurement,
    Outcome,
    percentile,
    summarise,
    tokens_over_time,
)
from ml_service.pipeline.load.workload import Load

seconds = st.floats(0, 1e3)


@given(st.lists(seconds, min_size=1, max_size=50), st.floats(0, 1))
def test_a_percentile_is_numpys(values: list[float], share: float) -> None:
    assert percentile(sorted(values), share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-9)


@given(st.lists(seconds, min_size=1, max_size=50))
def test_a_distribution_is_ordered_and_in_milliseconds(values: list[float]) -> None:
    distribution = Distribution.of(values)
    assert distribution is not None
    assert distribution.p50 <= distribution.p90 <= distribution.p99
    assert distribution.mean == pytest.approx(np.mean(values) * 1e3)


def streamed(index: int, started_s: float, arrivals_s: list[float]) -> Outcome:
    return Outcome(index, started_s, arrivals_s, arrivals_s[-1], 10, len(arrivals_s))


def test_a_summary_counts_tokens_of_answers_and_failures_by_reason() -> None:
    outcomes = [
        streamed(0, 0.0, [0.1, 0.2, 0.4]),
        streamed(1, 1.0, [1.3, 1.4]),
        Outcome(2, 0.0, [0.05], ended_s=2.0, failure="timeout"),
        Outcome(3, 0.0, ended_s=0.1, failure="429"),
        Outcome(4, 0.0, ended_s=0.1, failure="429"),
    ]
    summary = summarise(Measurement(Load(2, requests=5), outcomes, 2.0, 0.5, is_interrupted=False))
    assert (summary.requests, summary.failed, summary.failures) == (5, 3, {"429": 2, "timeout": 1})
    assert (summary.prompt_tokens, summary.completion_tokens) == (20, 5)
    assert (summary.tokens_per_second, summary.requests_per_second, summary.client_cpu_share) == (2.5, 1.0, 0.25)
    assert summary.first_token_ms is not None
    assert summary.first_token_ms.mean == pytest.approx(200)
    assert summary.inter_token_ms is not None
    assert summary.inter_token_ms.mean == pytest.approx(400 / 3)
    assert summary.end_to_end_ms is not None
    assert summary.end_to_end_ms.mean == pytest.approx(400)


def test_a_summary_of_nothing_is_zero_and_not_an_error() -> None:
    summary = summarise(Measurement(Load(1, seconds=1), [], 0.0, 0.0, is_interrupted=True))
    assert (summary.requests, summary.tokens_per_second, summary.end_to_end_ms) == (0, 0.0, None)


@given(st.lists(st.tuples(st.floats(0, 5), st.lists(st.floats(0, 5), max_size=8)), max_size=10), st.integers(1, 30))
def test_no_token_is_lost_over_time(requests: list[tuple[float, list[float]]], bins: int) -> None:
    outcomes = []
    for index, (started_s, gaps_s) in enumerate(requests):
        arrivals_s = [started_s + gap for gap in sorted(gaps_s)]
        outcomes.append(Outcome(index, started_s, arrivals_s, 10.0, 1, len(arrivals_s) or 7))
    rates = tokens_over_time(outcomes, 10.0, bins)
    assert len(rates) == bins
    assert sum(rates) * 10.0 / bins == pytest.approx(sum(outcome.completion_tokens for outcome in outcomes))
