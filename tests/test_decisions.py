"""What the engine decides between steps: guesses, fair pieces, what is kept of prompts, places; pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ml_service.common.errors import BadRequest, Overloaded, Unavailable
from ml_service.inference.admission import Admission
from ml_service.inference.lookup import PromptLookup
from ml_service.inference.pace import FRAME_S, LONGEST_FRAME_S, UNNOTICED_S, Frames, Pace, frame_s
from ml_service.inference.prefix_cache import PrefixCache
from ml_service.utils.telemetry import Telemetry

IDS = st.lists(st.integers(0, 2), max_size=40)


@given(IDS, st.integers(0, 8))
def test_a_guess_is_what_followed_the_same_three_tokens_last_time(ids: list[int], most: int) -> None:
    guess = PromptLookup().propose(ids, most)
    ends = [end for end in range(3, len(ids)) if ids[end - 3 : end] == ids[-3:]]
    if len(ids) < 3 or not ends or not most:
        assert guess == []
    else:
        assert guess == ids[ends[-1] : ends[-1] + min(3, most)]


@given(IDS, IDS)
def test_guessing_as_tokens_come_is_guessing_at_once(first: list[int], more: list[int]) -> None:
    growing, ids = PromptLookup(), list(first)
    growing.propose(ids, 3)
    for token in more:
        ids.append(token)
        growing.propose(ids, 3)
    assert growing.propose(ids, 3) == PromptLookup().propose(ids, 3)


def test_guesses_grow_while_they_come_true_and_pause_where_they_do_not() -> None:
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 4
    lookup = PromptLookup()
    assert len(lookup.propose(ids, 20)) == 3
    lookup.learn(3, 3, len(ids))
    assert len(lookup.propose(ids, 20)) == 6
    for _ in range(3):
        lookup.learn(6, 0, len(ids))
    assert lookup.propose(ids, 20) == []
    later = ids + [1, 2, 3, 4, 5, 6, 7, 8, 9] * 40
    assert len(lookup.propose(later, 20)) == 1
    lookup.learn(1, 1, len(later))
    assert len(lookup.propose(later, 20)) == 2


@pytest.mark.parametrize(("base_s", "token_s"), [(0.003, 0.0003), (0.0002, 0.00003), (0.02, 0.02)])
def test_a_piece_of_a_prompt_takes_what_is_fair_to_the_others(base_s: float, token_s: float) -> None:
    pace, source = Pace(), random.Random(0)
    assert pace.fair_chunk(1, 1, 256, shares_step=True) == 256  # nothing is known yet

    def seconds(tokens: float) -> float:
        return base_s + tokens * token_s

    for _ in range(100):
        tokens = source.choice([1, 2, 8, 9, 40, 256])
        pace.stepped(tokens, seconds(tokens) * source.uniform(0.9, 1.1))
    for decoding in (1, 8, 31):
        shared = pace.fair_chunk(1, decoding, 256, shares_step=True)
        fair_s = max(2.4 * seconds(decoding), UNNOTICED_S)
        assert shared in (8, 256) or seconds(decoding + shared) == pytest.approx(fair_s, rel=0.25)
        more = pace.fair_chunk(2 * decoding, decoding, 256, shares_step=True)
        assert shared == 8 or fair_s == UNNOTICED_S or more in (256, pytest.approx(2 * shared, abs=2))
        own = pace.fair_chunk(1, decoding, 256, shares_step=False)
        assert own in (8, 256) or seconds(own) == pytest.approx(max(1.5 * seconds(decoding), UNNOTICED_S), rel=0.25)


_ROUNDING_S = 1e-9


@example([0.04813862196703204, 0.05], 100)
@given(st.lists(st.floats(0.0005, 0.1), min_size=1, max_size=60), st.integers(0, 300))
def test_tokens_wait_for_each_other_a_frame_at_most_and_one_step_where_that_takes_longer(
    steps: list[float], streams: int
) -> None:
    frames, now, told = Frames(), 0.0, -math.inf
    for before, step in zip([0.0, *steps], steps, strict=False):
        now += step
        if frames.is_due(now, streams):
            is_late = now - told + step > frame_s(streams) - _ROUNDING_S
            assert told < 0 or is_late, "too early: there was time for one more step"
            told = now
        else:
            assert now - told <= max(frame_s(streams), before + step) + _ROUNDING_S
    assert told > 0, "the first step is told at once"


def test_many_streams_are_told_less_often_but_never_seldom() -> None:
    frames_s = [frame_s(streams) for streams in range(1, 1000)]
    assert frames_s == sorted(frames_s)
    assert (frames_s[0], frames_s[15], frames_s[-1]) == (FRAME_S, FRAME_S, LONGEST_FRAME_S)
    assert frame_s(32) == pytest.approx(0.032)


def test_steps_that_were_all_equally_long_are_no_reason_to_divide_by_nothing() -> None:
    pace = Pace()
    for _ in range(10):
        pace.stepped(32, 0.02)
    assert pace.fair_chunk(1, 31, 256, shares_step=True) == 43
    assert pace.fair_chunk(1, 1, 256, shares_step=True) == 8
    assert pace.fair_chunk(1, 0, 256, shares_step=True) == 256


def ids_of(start: int, stop: int) -> tuple[int, int]:
    return (start, stop)


@given(st.lists(st.lists(st.integers(0, 1), max_size=12), max_size=12), st.integers(1, 6))
def test_the_prefix_cache_finds_exactly_what_was_read_behind_the_same_tokens(
    prompts: list[list[int]], max_blocks: int
) -> None:
    cache: PrefixCache[tuple[int, ...]] = PrefixCache(2, max_blocks)
    for prompt in prompts:
        found = cache.match(prompt)
        for number, block in enumerate(found):
            assert block == tuple(prompt[: 2 * number + 2]), "a block stands for everything that leads up to it"
        cache.extend(prompt, lambda start, stop, ids=prompt: tuple(ids[:stop]))  # type: ignore[misc]
        assert len(cache) <= max_blocks
        if len(prompt) // 2 <= max_blocks:
            assert len(cache.match(prompt)) == len(prompt) // 2


def test_the_block_that_was_used_longest_ago_goes_first() -> None:
    cache: PrefixCache[Sequence[int]] = PrefixCache(1, 3)
    cache.extend([1, 2], ids_of)
    cache.extend([3], ids_of)
    assert len(cache.match([1, 2])) == 2
    cache.extend([4], ids_of)
    assert (len(cache.match([1, 2])), len(cache.match([3])), len(cache.match([4]))) == (2, 0, 1)
    cache.extend([5], ids_of)
    assert (len(cache.match([1, 2])), len(cache.match([4]))) == (1, 1), "the end of a chain before its beginning"


def test_places_are_taken_all_or_none_and_given_back() -> None:
    telemetry = Telemetry()
    admission = Admission(slots=2, max_waiting=1, telemetry=telemetry)
    assert admission.take(1) is True
    assert admission.take(1) is False
    with pytest.raises(Overloaded, match="all 2 slots and 1 waiting places"):
        admission.take(2)
    assert (admission.taken, admission.is_full) == (2, False)
    admission.take(1)
    assert admission.is_full
    for _ in range(3):
        admission.give_back()
    assert admission.take(3) is True
    with pytest.raises(BadRequest, match="4 answers at once are more than the 3 places"):
        admission.take(4)
    admission.close()
    with pytest.raises(Unavailable):
        admission.take(1)
    rejections = telemetry.registry.get_sample_value("ml_service_admission_rejections_total", {"reason": "queue_full"})
    assert rejections == 2


def test_the_time_to_come_back_follows_how_long_requests_take() -> None:
    waits = []
    for seconds in (0.01, 10.0):
        admission = Admission(slots=2, max_waiting=0, telemetry=Telemetry())
        for _ in range(100):
            admission.learn(seconds)
        admission.take(2)
        with pytest.raises(Overloaded) as refusal:
            admission.take(1)
        waits.append(refusal.value.retry_after_s)
    assert waits[0] == pytest.approx(0.015, rel=0.1)
    assert waits[1] == pytest.approx(15, rel=0.1)
