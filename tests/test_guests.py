"""The guests of a process: found by number, closed by who leaves last, by time, for another one, by a deployment."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_service.common.errors import BundleRefused, NotFound, Overloaded, Unavailable
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.inference.guest_book import GuestBook
from ml_service.inference.handles import Handles, Live
from ml_service.pipeline.guests import Guests
from ml_service.utils.telemetry import Telemetry
from tests.test_live import a_model, never, until


def a_guest(experiment_id: int, name: str = "a guest") -> Any:
    return a_model(name, experiment_id, generation=0)


@pytest.fixture
def live() -> Live:
    live = Live()
    live.hold(a_model())
    return live


def test_a_guest_answers_by_its_number_and_stands_behind_those_that_are_deployed(live: Live) -> None:
    guest = a_guest(2)
    live.welcome(guest)
    assert list(live.models) == ["active", "first", "1", "2"]
    assert live.take(never, "2") is live.take_experiment(2) is guest
    assert live.take_experiment(1) is live.current
    assert live.take_experiment(3) is None
    assert live.busy == 3
    with pytest.raises(NotFound, match="ask for active, first, 1, 2"):
        live.take(never, "a guest")


def test_what_a_guest_answers_is_told_too() -> None:
    live, told = Live(), []
    live.watch = lambda model, sequence, end: told.append(model)
    live.hold(a_model())
    guest = a_guest(2)
    live.welcome(guest)
    (observer,) = guest.engine.observers
    observer(None, None)
    assert told == [guest]


def test_a_guest_stays_open_between_requests_and_goes_when_nobody_asks_for_it(live: Live) -> None:
    guest = a_guest(2)
    live.welcome(guest)
    live.give_back(live.take(never, "2"))
    live.dismiss_idle(60)
    assert live.take(never, "2") is guest
    live.dismiss_idle()  # somebody uses it
    assert guest.engine.stops == 0
    live.give_back(guest)
    live.dismiss_idle(waits=True)
    assert guest.engine.stops == 1
    assert live.current.engine.stops == 0  # type: ignore[attr-defined]
    assert list(live.models) == ["active", "first", "1"]


def test_the_one_that_was_asked_longest_ago_makes_room_and_none_that_is_in_use_or_wanted(live: Live) -> None:
    guests = {number: a_guest(number) for number in (2, 3, 4)}
    for guest in guests.values():
        live.welcome(guest)
    live.give_back(live.take(never, "2"))
    live.take(never, "4")
    assert live.guests_in_use() == {4}
    live.make_room(3, wanted=())
    assert [guests[number].engine.stops for number in (2, 3, 4)] == [0, 1, 0]
    live.make_room(3, wanted=())  # there is room already
    with pytest.raises(Overloaded, match="others use the one place for models that are not deployed"):
        live.make_room(1, wanted=())
    with pytest.raises(Overloaded, match="all 2 places"):
        live.make_room(2, wanted={2})
    assert [guests[number].engine.stops for number in (2, 3, 4)] == [0, 1, 0]


def test_who_runs_on_a_guest_ends_on_it_though_it_is_deployed(live: Live) -> None:
    guest, deployed, other = a_guest(2), a_model("a guest", 2, 2), a_guest(3)
    live.welcome(guest)
    live.welcome(other)
    live.take(never, "2")
    live.hold(deployed)
    assert live.take(never, "2") is deployed
    assert live.take(never, "3") is other
    assert guest.engine.stops == 0
    live.give_back(guest)
    until(lambda: guest.engine.stops == 1)
    assert (deployed.engine.stops, other.engine.stops) == (0, 0)


@pytest.mark.parametrize("role", ["canary", "shadow"])
def test_a_guest_gives_way_to_its_own_trial(live: Live, role: str) -> None:
    guest, trial = a_guest(2), a_model("second", 2, 2)
    live.welcome(guest)
    shadow: Any = type("Stub", (), {"model": trial, "offer": lambda answered: None})
    live.swap(Handles(2, live.current, **({"shadow": shadow} if role == "shadow" else {"canary": trial})))
    until(lambda: guest.engine.stops == 1)
    assert live.take(never, "2") is trial


def test_draining_closes_guests_and_lets_none_in(live: Live) -> None:
    idle, busy = a_guest(2), a_guest(3)
    live.welcome(idle)
    live.welcome(busy)
    live.take(never, "3")
    live.drain()
    until(lambda: idle.engine.stops == 1)
    assert busy.engine.stops == 0
    for ask in (lambda: live.welcome(a_guest(4)), lambda: live.take(never, "3"), lambda: live.take_experiment(3)):
        with pytest.raises(Unavailable, match="shutting down"):
            ask()
    live.give_back(busy)
    until(lambda: busy.engine.stops == 1)


def test_closing_ends_guests_once_though_somebody_uses_them(live: Live) -> None:
    guests = [a_guest(number) for number in (2, 3)]
    for guest in guests:
        live.welcome(guest)
    live.take(never, "3")
    live.close()
    live.give_back(guests[1])
    assert [guest.engine.stops for guest in guests] == [1, 1]


def test_the_book_forgets_who_left() -> None:
    book, guest = GuestBook(), a_guest(2)
    book.add(guest)
    before = book.models
    assert book.idle(()) == ["2"]
    assert book.idle((), for_s=60) == book.idle({guest.engine}) == []
    assert book.remove(["2"]) == [guest.engine]
    assert list(before) == ["2"]  # who reads it meanwhile is not disturbed
    assert (dict(book.models), book.rests(guest.engine), book.idle(())) == ({}, False, [])


def test_no_guest_is_closed_in_use_and_each_once_whatever_the_order(live: Live) -> None:
    is_over, problems, made = threading.Event(), [], []

    def use() -> None:
        source = random.Random()
        while not is_over.is_set():
            model: Any = live.take_experiment(source.randint(1, 5))
            if model is not None:
                if model.engine.stops:
                    problems.append("a model was closed while it was used")
                live.give_back(model)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    source = random.Random(3)
    for generation in range(2, 150):
        number = source.randint(1, 5)
        if source.random() < 0.2:
            made.append(a_model(str(number), number, generation))
            live.hold(made[-1])
        elif live.of_experiment(number) is None:
            try:
                live.make_room(2, wanted=())
            except Overloaded:
                continue
            made.append(a_guest(number))
            live.welcome(made[-1])
    is_over.set()
    for user in users:
        user.join()
    live.close()
    assert problems == []
    assert [model.engine.stops for model in made] == [1] * len(made)
    assert live.busy == 0


class SlowGuests(Guests):
    """Opens a stub for every number, when it is let."""

    def __init__(self, live: Live, tmp_path: Path) -> None:
        database = Database(None, tmp_path)
        super().__init__(database, Settings(store=tmp_path, max_guests=1), live, Telemetry(), self._take_turn)
        self.holder, self.opened, self.gate = live, [], asyncio.Event()
        self.error: Exception | None = None
        self._experiments: Any = SimpleNamespace(
            bundle_named=lambda name: SimpleNamespace(experiment=SimpleNamespace(id=int(name)))
        )

    async def _take_turn(self, work: Callable[[], None]) -> None:
        await self.gate.wait()
        work()

    def _open(self, stored: Any) -> None:
        self.opened.append(stored.experiment.id)
        if self.error is not None:
            raise self.error
        self.holder.welcome(a_guest(stored.experiment.id))


async def settled(*awaitables: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    """Begun as far as they come."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.sleep(0.05)
    return tasks  # type: ignore[return-value]


def test_who_leaves_while_a_guest_is_opened_takes_nothing_along(live: Live, tmp_path: Path) -> None:
    async def scenario() -> None:
        guests = SlowGuests(live, tmp_path)
        first, second = await settled(guests.take("2"), guests.take("2"))
        first.cancel()
        guests.gate.set()
        assert (await second).experiment_id == 2
        live.give_back(second.result())
        (alone,) = await settled(guests.take("3"))
        assert alone.done()  # another one, in the place of the first
        live.give_back(alone.result())
        assert (guests.opened, live.busy, dict(guests._wanted), guests._openings) == ([2, 3], 0, {}, {})

    asyncio.run(scenario())


def test_an_opening_that_nobody_waits_for_any_more_goes_on_and_keeps_no_place(live: Live, tmp_path: Path) -> None:
    async def scenario() -> None:
        guests = SlowGuests(live, tmp_path)
        (left,) = await settled(guests.take("2"))
        with pytest.raises(Overloaded):
            await guests.take("3")
        left.cancel()
        await settled()
        (waits,) = await settled(guests.take("3"))
        guests.gate.set()
        assert (await waits).experiment_id == 3
        assert guests.opened == [2, 3]

    asyncio.run(scenario())


def test_an_opening_that_fails_fails_for_all_who_wait_and_the_next_one_tries_anew(live: Live, tmp_path: Path) -> None:
    async def scenario() -> None:
        guests = SlowGuests(live, tmp_path)
        guests.error = BundleRefused("a file is cut short")
        waiting = await settled(*(guests.take("2") for _ in range(3)))
        guests.gate.set()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(each) for each in told] == ["a file is cut short"] * 3
        guests.error = None
        assert (await guests.take("2")).experiment_id == 2
        assert (guests.opened, live.busy) == ([2, 2], 1)

    asyncio.run(scenario())


def test_where_it_is_deployed_while_it_is_opened_the_deployed_one_answers(live: Live, tmp_path: Path) -> None:
    async def scenario() -> None:
        guests, deployed = SlowGuests(live, tmp_path), a_model("second", 2, 2)
        (waits,) = await settled(guests.take("2"))
        live.hold(deployed)
        guests._open = lambda stored: None  # type: ignore[method-assign] # as the real one, which looks first
        guests.gate.set()
        assert await waits is deployed

    asyncio.run(scenario())


def test_at_the_end_no_further_guest_is_opened(live: Live, tmp_path: Path) -> None:
    async def scenario() -> None:
        guests = SlowGuests(live, tmp_path)
        (waits,) = await settled(guests.take("2"))
        await guests.end()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert guests.opened == []

    asyncio.run(scenario())
