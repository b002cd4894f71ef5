"""Slots and scheduler: pure decisions, no model and no thread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_service.common.types import GenerationParameters
from ml_service.inference.sampler import Sampler
from ml_service.inference.scheduler import Scheduler
from ml_service.inference.sequence import Sequence
from ml_service.inference.slots import Slots


class NoText:
    is_stopped = False

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def sequence(name: str, prompt: int = 4) -> Sequence:
    parameters = GenerationParameters()
    return Sequence(
        name, list(range(1, prompt + 1)), parameters, Sampler(parameters, 0), NoText(), lambda event: None, (0,), 64
    )  # type: ignore[arg-type]


@given(st.lists(st.booleans(), max_size=60))
def test_slots_are_never_handed_out_twice_and_the_lowest_comes_first(takes: list[bool]) -> None:
    slots, held = Slots(3), []
    for take in takes:
        if take:
            slot = slots.take()
            assert slot == min(set(range(3)) - set(held), default=None)
            held += [slot] if slot is not None else []
        elif held:
            slots.give_back(held.pop(0))
        assert slots.taken == len(held)


def test_giving_a_slot_back_twice_is_a_bug() -> None:
    slots = Slots(1)
    slots.give_back(slots.take() or 0)
    with pytest.raises(AssertionError, match="twice"):
        slots.give_back(0)


def test_a_full_house_makes_the_next_request_wait_until_a_place_is_free() -> None:
    scheduler = Scheduler(Slots(2))
    first, second, third = sequence("1"), sequence("2"), sequence("3")
    for each in (first, second, third):
        scheduler.add(each)
    assert scheduler.admit() == [first, second]
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    scheduler.remove(first)
    assert scheduler.admit() == [third]
    assert third.slot == 0


def test_a_long_prompt_and_the_running_ones_take_turns() -> None:
    scheduler = Scheduler(Slots(2))
    running, long = sequence("running"), sequence("long", prompt=12)
    running.cached = 4
    for each in (running, long):
        scheduler.add(each)
    scheduler.admit()
    turns = []
    for _ in range(6):
        reading, decoding = scheduler.schedule(shares_steps=False)
        for each in reading:
            each.cached += 4
        turns.append("+".join(each.id for each in reading or decoding))
    assert turns == ["long", "running", "long", "running", "long", "running+long"]


def test_where_rows_share_steps_everybody_is_in_each() -> None:
    scheduler = Scheduler(Slots(3))
    running, long, other = sequence("running"), sequence("long", prompt=12), sequence("other")
    running.cached = 4
    for each in (running, long, other):
        scheduler.add(each)
    scheduler.admit()
    assert scheduler.schedule(shares_steps=True) == ([long, other], [running])
    long.cached, other.cached = 12, 3
    assert scheduler.schedule(shares_steps=True) == ([other], [running, long])


def test_one_who_left_is_found_among_waiting_and_running() -> None:
    scheduler = Scheduler(Slots(1))
    first, second = sequence("1"), sequence("2")
    scheduler.add(first)
    scheduler.add(second)
    scheduler.admit()
    first.is_cancelled = second.is_cancelled = True
    assert scheduler.those(lambda each: each.is_cancelled) == [second, first]
    for each in (first, second):
        scheduler.remove(each)
    assert not scheduler.has_work
