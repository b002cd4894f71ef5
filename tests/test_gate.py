"""The gate between a retrained model and the clients: better on the new, not much worse on the old."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_service.pipeline.gate import NEW, DeployIf, judge

positive = st.floats(0.01, 10)


def scores(new: float, old: float) -> dict[str, dict[str, float]]:
    return {NEW: {"bits_per_byte": new}, "replay": {"bits_per_byte": old}}


@given(before=positive, after=positive, better_by=st.floats(0, 1))
def test_it_passes_exactly_what_is_better_by_more_than_asked(before: float, after: float, better_by: float) -> None:
    verdict = judge(DeployIf(better_by=better_by), scores(after, 1.0), scores(before, 1.0))
    assert verdict.passed == (before - after > better_by)


@given(old_before=positive, old_after=positive, share=st.floats(0, 0.5))
def test_it_passes_nothing_that_forgot_more_than_is_allowed(old_before: float, old_after: float, share: float) -> None:
    verdict = judge(DeployIf(old_worse_by=share), scores(1.0, old_after), scores(2.0, old_before))
    assert verdict.passed == (old_after <= old_before * (1 + share))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_that_is_no_number_never_passes(broken: float) -> None:
    assert not judge(DeployIf(), scores(broken, 1.0), scores(2.0, 1.0)).passed
    assert not judge(DeployIf(), scores(1.0, broken), scores(2.0, 1.0)).passed


def test_it_says_why() -> None:
    assert "from 2.0000 to 1.5000" in judge(DeployIf(), scores(1.5, 1.0), scores(2.0, 1.0)).reason
    assert "not better by more than 0.6" in judge(DeployIf(better_by=0.6), scores(1.5, 1.0), scores(2.0, 1.0)).reason
    assert "more than 2.0% was forgotten" in judge(DeployIf(), scores(1.5, 1.1), scores(2.0, 1.0)).reason
    assert "nothing to judge it by" in judge(DeployIf(), {}, {}).reason
