"""An answer's head and body leave in one write, in their order, and nothing is held longer than a turn of the loop."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as some

from ml_service.backend.joined_writes import JoinedWrites


class Recorder:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = self.is_aborted = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "a closed transport takes nothing"
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> str:
        return f"about {name}"


def test_head_and_body_leave_together() -> None:
    async def play() -> None:
        inner = Recorder()
        joined = JoinedWrites(inner, asyncio.get_running_loop())
        joined.write(b"head")
        assert joined.get_write_buffer_size() == 4
        joined.write(b"body")
        assert inner.writes == [b"headbody"]
        await asyncio.sleep(0)
        assert inner.writes == [b"headbody"]
        assert joined.get_extra_info("socket") == "about socket"

    asyncio.run(play())


def test_what_nothing_follows_leaves_with_the_turn() -> None:
    async def play() -> None:
        inner = Recorder()
        joined = JoinedWrites(inner, asyncio.get_running_loop())
        joined.write(b"head")
        assert not inner.writes
        await asyncio.sleep(0)
        assert inner.writes == [b"head"]

    asyncio.run(play())


def test_a_close_sends_what_is_held_and_an_abort_does_not() -> None:
    async def play() -> None:
        for ends, sent in (("close", [b"last"]), ("abort", [])):
            inner = Recorder()
            joined = JoinedWrites(inner, asyncio.get_running_loop())
            joined.write(b"last")
            getattr(joined, ends)()
            assert inner.is_closed
            await asyncio.sleep(0)
            assert inner.writes == sent

    asyncio.run(play())


def test_a_client_who_left_meanwhile_gets_nothing() -> None:
    async def play() -> None:
        inner = Recorder()
        joined = JoinedWrites(inner, asyncio.get_running_loop())
        joined.write(b"head")
        inner.is_closed = True
        joined.write(b"body")
        await asyncio.sleep(0)
        joined.close()
        assert not inner.writes

    asyncio.run(play())


@given(some.lists(some.one_of(some.binary(min_size=1, max_size=4), some.none()), max_size=30))
def test_all_is_sent_once_and_in_order(script: list[bytes | None]) -> None:
    """None is the end of a turn."""
    inner = Recorder()

    async def play() -> None:
        joined = JoinedWrites(inner, asyncio.get_running_loop())
        for piece in script:
            if piece is None:
                await asyncio.sleep(0)
                assert not joined.get_write_buffer_size()
            else:
                joined.write(piece)
        joined.close()

    asyncio.run(play())
    assert b"".join(inner.writes) == b"".join(piece for piece in script if piece)
