"""API keys: kept as hashes, shown once, revoked for good, on both databases; in memory they are read seldom."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_service.backend import keyring as keyring_module
from ml_service.backend.keyring import Keyring
from ml_service.cli_keys import duration
from ml_service.common.errors import BadRequest, Conflict, NotFound, Unauthenticated, Unavailable
from ml_service.common.rates import Rate
from ml_service.common.scopes import SCOPES, allows
from ml_service.data import audit
from ml_service.data.api_keys import MARK, ApiKeys, Holder, digest_of
from ml_service.data.database import Database, now


def test_a_key_is_kept_as_its_hash_with_who_and_what(database: Database) -> None:
    keys = ApiKeys(database)
    made = keys.create("my-app", ["train", "infer"], "somebody", now() + timedelta(days=1), Rate(5, 60))
    assert made.secret.startswith(MARK)
    assert len(made.secret) >= len(MARK) + 43  # 256 bits
    (kept,) = keys.all()
    assert made.secret not in str(vars(kept))
    assert made.secret.startswith(kept.prefix)
    (holder,) = keys.holders().values()
    assert keys.holders()[digest_of(made.secret)] == holder
    assert (holder.name, holder.scopes, holder.rate) == ("my-app", {"infer", "train"}, Rate(5, 60))
    (event,) = audit.latest(database, 10)
    assert (event.actor, event.action, event.target) == ("somebody", "create key", "key my-app")
    assert event.after["scopes"] == ["infer", "train"]
    assert made.secret not in str(event.after)


def test_a_key_is_revoked_once_and_its_name_is_not_used_again(database: Database) -> None:
    keys = ApiKeys(database)
    keys.create("ci", ["data"], "a")
    assert keys.can_open_anything()
    assert keys.revoke("ci", "b")
    assert not keys.revoke("ci", "c")
    assert not keys.can_open_anything()
    assert [event.action for event in audit.latest(database, 10)] == ["revoke key", "create key"]
    with pytest.raises(Conflict, match="there is or was a key ci"):
        keys.create("ci", ["data"], "a")
    with pytest.raises(NotFound, match="no key cd"):
        keys.revoke("cd", "a")
    assert audit.verify(database) == (2, None)


def test_a_key_past_its_time_opens_nothing(database: Database) -> None:
    keys = ApiKeys(database)
    keys.create("old", ["data"], "a", now() - timedelta(seconds=1))
    assert not keys.can_open_anything()
    keys.create("new", ["data"], "a", now() + timedelta(hours=1))
    assert keys.can_open_anything()


@pytest.mark.parametrize("name", ["", "A", "a b", "root in a terminal", "worker", "environment", "a" * 64, "-a", "a\n"])
def test_a_name_that_could_be_taken_for_somebody_else_is_refused(name: str, database: Database) -> None:
    with pytest.raises(BadRequest):
        ApiKeys(database).create(name, ["infer"], "a")


def test_scopes_are_among_five(database: Database) -> None:
    for scopes, words in ([], "at least one scope"), (["infer", "root"], "there is no scope root"):
        with pytest.raises(BadRequest, match=words):
            ApiKeys(database).create("a", scopes, "a")


@given(st.sets(st.sampled_from(SCOPES)), st.sampled_from(SCOPES))
def test_a_scope_allows_itself_and_admin_allows_all(held: set[str], wanted: str) -> None:
    assert allows(held, wanted) == (wanted in held or "admin" in held)


@given(st.integers(1, 10**9 - 1), st.sampled_from([1, 60, 3600, 86400]))
def test_a_rate_is_read_as_it_is_written(requests: int, seconds: int) -> None:
    assert Rate.parse(str(Rate(requests, seconds))) == Rate(requests, seconds)


@given(st.text(max_size=12))
def test_whatever_is_no_rate_and_no_duration_is_refused_in_words(text: str) -> None:
    for parse in (Rate.parse, duration):
        try:
            parse(text)
        except ValueError as error:
            assert "write" in str(error)


def test_durations() -> None:
    assert duration("90d") == timedelta(days=90)
    assert duration("12h") == timedelta(hours=12)
    for wrong in ("0d", "-1d", "90", "d", "99999w", "1.5h"):
        with pytest.raises(ValueError, match="--expires"):
            duration(wrong)


class Remembered:
    """Keys as a database remembers them, which counts how often it is asked, and can be away or hang."""

    def __init__(self, *names: str) -> None:
        self.keys = {digest_of(name): Holder(name, frozenset({"infer"})) for name in names}
        self.asked, self.is_away = 0, False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def holders(self) -> dict[bytes, Holder]:
        self.asked += 1
        assert self.may_answer.wait(20)
        if self.is_away:
            raise Unavailable("the database cannot be reached")
        return dict(self.keys)

    def revoke(self, name: str) -> None:
        self.keys[digest_of(name)] = Holder(name, frozenset({"infer"}), revoked=now())


class Hours:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def settled(ring: Keyring) -> None:
    if ring._reading is not None:
        await ring._reading


def test_guessing_costs_a_query_a_second_at_most() -> None:
    async def guess() -> None:
        clock, kept = Hours(), Remembered("right")
        ring = Keyring(None, kept, clock)
        for step in range(1000):
            with pytest.raises(Unauthenticated, match="not known"):
                await ring.holder(f"guess {step}")
        assert kept.asked == 1
        assert (await ring.holder("right")).name == "right"
        clock.now_s += 1.1
        for step in range(1000):
            with pytest.raises(Unauthenticated, match="not known"):
                await ring.holder(f"guess {step}")
        assert kept.asked == 2
        assert len(ring._known) == 1

    asyncio.run(guess())


def test_a_new_key_is_known_after_a_second_and_a_revoked_one_is_not_after_five() -> None:
    async def follow() -> None:
        clock, kept = Hours(), Remembered("a")
        ring = Keyring(None, kept, clock)
        await ring.holder("a")
        kept.keys[digest_of("b")] = Holder("b", frozenset())
        clock.now_s += 1.1
        assert (await ring.holder("b")).name == "b"
        kept.revoke("a")
        clock.now_s += 5.1
        with pytest.raises(Unauthenticated, match="the key a was revoked at"):
            await ring.holder("a")

    asyncio.run(follow())


def test_a_busy_key_is_read_anew_beside_its_requests() -> None:
    async def follow() -> None:
        clock, kept = Hours(), Remembered("a")
        ring = Keyring(None, kept, clock)
        await ring.holder("a")
        kept.revoke("a")
        clock.now_s += 2.1
        await ring.holder("a")  # the database is asked now, and this one does not wait for it
        await settled(ring)
        with pytest.raises(Unauthenticated, match="revoked"):
            await ring.holder("a")

    asyncio.run(follow())


def test_keys_that_were_known_are_good_for_a_day_while_the_database_is_away() -> None:
    async def follow() -> None:
        clock, kept = Hours(), Remembered("a")
        ring = Keyring("environment's", kept, clock)
        await ring.holder("a")
        kept.is_away = True
        clock.now_s += 3600
        assert (await ring.holder("a")).name == "a"
        with pytest.raises(Unavailable, match="cannot be looked up"):
            await ring.holder("b")  # it may be a new one
        clock.now_s += 24 * 3600
        with pytest.raises(Unavailable, match="cannot be looked up"):
            await ring.holder("a")
        assert (await ring.holder("environment's")).name == "environment"
        kept.is_away = False
        clock.now_s += 1.1
        assert (await ring.holder("a")).name == "a"

    asyncio.run(follow())


def test_a_database_that_hangs_holds_up_known_keys_for_a_moment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_module, "_PATIENCE_S", 0.01)

    async def follow() -> None:
        clock, kept = Hours(), Remembered("a")
        ring = Keyring(None, kept, clock)
        await ring.holder("a")
        kept.may_answer.clear()
        clock.now_s += 60
        for _ in range(1000):
            assert (await ring.holder("a")).name == "a"
            clock.now_s += 0.1
        assert kept.asked == 2
        kept.may_answer.set()
        await settled(ring)

    asyncio.run(follow())


def test_an_expired_key_is_told_so_though_nobody_asked_the_database_again() -> None:
    async def follow() -> None:
        kept = Remembered()
        kept.keys[digest_of("a")] = Holder("a", frozenset(), expires=now() - timedelta(seconds=1))
        with pytest.raises(Unauthenticated, match="the key a has expired at"):
            await Keyring(None, kept).holder("a")

    asyncio.run(follow())
