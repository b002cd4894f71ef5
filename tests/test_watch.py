"""The watch's decisions: certain faults break it, bad luck and heavier load do not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ml_service.inference.track_record import Pace, Seen, TrackRecord
from ml_service.pipeline.watch import Limits, is_over, judge

LIMITS = Limits(seconds=60, requests=100, error_ratio=0.05, p95_factor=2.0)
loads = st.lists(st.integers(1, 64), min_size=1, max_size=6)


def answers(count: int, seed: int, loads: list[int], slower: float = 1.0) -> tuple[Pace, ...]:
    """A model whose steps take longer the more are under way, with noise."""
    source = random.Random(seed)
    chosen = [source.choice(loads) for _ in range(count)]
    return tuple(Pace(slower * (0.002 + 0.001 * load) * source.uniform(0.8, 1.3), load) for load in chosen)


def seen(requests: int, errors: int = 0, paces: tuple[Pace, ...] = ()) -> Seen:
    return Seen(requests, requests, errors, paces)


@given(loads, loads, st.integers(0, 2**32))
def test_the_same_model_is_never_at_fault_whatever_the_load(old: list[int], new: list[int], seed: int) -> None:
    before, after = answers(500, seed, old), answers(500, seed + 1, new)
    assert judge(seen(500, paces=before), seen(500, paces=after), LIMITS).fault is None


@given(loads, st.floats(2.8, 20), st.integers(0, 2**32))
def test_a_model_that_is_much_slower_under_the_same_load_is_at_fault(
    loads: list[int], slower: float, seed: int
) -> None:
    before, after = answers(500, seed, loads), answers(500, seed + 1, loads, slower)
    verdict = judge(seen(500, paces=before), seen(500, paces=after), LIMITS)
    assert verdict.fault is not None
    assert "under the same load" in verdict.fault
    assert verdict.figures["p95_ms"] > 2 * verdict.figures["p95_before_ms"]


def test_a_ratio_that_nobody_feels_is_no_fault() -> None:
    quick, quicker = (tuple(Pace(s, 4) for _ in range(200)) for s in (0.0012, 0.0002))
    assert judge(seen(200, paces=quicker), seen(200, paces=quick), LIMITS).fault is None


def test_a_few_slow_answers_are_not_enough() -> None:
    slow, quick = (tuple(Pace(s, 4) for _ in range(n)) for s, n in ((0.1, 60), (0.01, 500)))
    assert judge(seen(500, paces=quick), seen(60, paces=slow), LIMITS).fault is None
    assert judge(seen(500, paces=quick), seen(100, paces=slow * 2), LIMITS).fault is not None


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_no_errors_are_no_fault(requests: int, before: int) -> None:
    assert judge(seen(before), seen(requests), LIMITS).fault is None
    assert judge(seen(before, before), seen(requests, requests), LIMITS).fault is None or before == 0


@given(st.integers(1, 1000), st.integers(1, 1000), st.data())
def test_more_errors_never_make_a_model_better(requests: int, before: int, data: st.DataObject) -> None:
    old = seen(before, data.draw(st.integers(0, before)))
    fewer, more = sorted(data.draw(st.integers(0, requests)) for _ in range(2))
    if judge(old, seen(requests, fewer), LIMITS).fault is not None:
        assert judge(old, seen(requests, more), LIMITS).fault is not None


def test_a_model_that_always_fails_is_found_out_after_a_few_requests() -> None:
    assert judge(seen(100), seen(2, 2), LIMITS).fault is None
    assert judge(seen(100), seen(4, 4), LIMITS).fault is not None
    assert judge(seen(100, 100), seen(4, 4), LIMITS).fault is None  # the one before was no better


def test_one_failure_among_many_is_bad_luck() -> None:
    assert judge(seen(100), seen(40, 3), LIMITS).fault is None
    assert judge(seen(100), seen(20, 8), LIMITS).fault == "8 of the latest 20 requests failed, 40.0% more than before"


def test_a_watch_ends_when_it_has_seen_enough_or_waited_very_long() -> None:
    assert not is_over(seen(1000), 59, LIMITS)
    assert is_over(seen(100), 60, LIMITS)
    assert not is_over(seen(99), 599, LIMITS)
    assert is_over(seen(0), 600, LIMITS)


def test_a_track_record_is_bounded_and_knows_errors_from_answers() -> None:
    record = TrackRecord()
    assert record.seen() == Seen()
    record.failed()
    record.answered(0.5, 1, 1)
    record.answered(0.9, 10, 3)
    assert record.seen() == Seen(3, 3, 1, (Pace(0.1, 3),))
    for _ in range(5000):
        record.answered(0.1, 2, 1)
    latest = record.seen()
    assert (latest.requests, latest.recent, latest.errors) == (5003, 1024, 0)
