"""Lanes of work: none waits for another, and the end comes only when all have found nothing since the last work."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from ml_service.pipeline.lanes import Lanes


def test_one_lane_goes_on_while_another_is_busy() -> None:
    other_is_done, outcome = threading.Event(), []
    wishes = {"slow": deque(["training"]), "quick": deque(["judging"])}

    def work(lane: str) -> bool:
        if not wishes[lane]:
            return False
        wishes[lane].popleft()
        if lane == "slow":
            outcome.append(other_is_done.wait(10))
        else:
            other_is_done.set()
        return True

    Lanes(("slow", "quick"), threading.Event()).run(work, until_idle_s=0.0)
    assert outcome == [True]


@pytest.mark.parametrize("attempt", range(20))
def test_work_that_brings_work_for_another_lane_is_not_left_behind(attempt: int) -> None:
    wishes = {"first": deque([20 + attempt]), "second": deque[int]()}
    done: list[int] = []

    def work(lane: str) -> bool:
        if not wishes[lane]:
            return False
        number = wishes[lane].popleft()
        done.append(number)
        if number:
            wishes["second" if lane == "first" else "first"].append(number - 1)
        return True

    Lanes(("first", "second"), threading.Event()).run(work, until_idle_s=0.0)
    assert done == list(range(20 + attempt, -1, -1))


def test_who_is_told_to_stop_stops() -> None:
    stop, looked = threading.Event(), []

    def work(lane: str) -> bool:
        looked.append(lane)
        stop.set()
        return False

    Lanes(("only",), stop).run(work, until_idle_s=None)
    assert looked == ["only"]


def test_an_error_of_one_lane_ends_all_and_is_told() -> None:
    def work(lane: str) -> bool:
        if lane == "broken":
            raise RuntimeError("a bug")
        return False

    with pytest.raises(RuntimeError, match="a bug"):
        Lanes(("broken", "other"), threading.Event()).run(work, until_idle_s=None)
