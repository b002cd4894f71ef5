"""The process that reads: it starts when it is needed, is one, dies alone, takes little memory and ends with us."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ml_service.common.errors import BadRequest, ModelFailure, Overloaded, TooLarge, Unavailable
from ml_service.common.settings import Settings
from ml_service.inference import image_reader
from ml_service.inference.image_reader import ImageReader
from ml_service.utils.telemetry import Telemetry
from tests.broken_images import encoded, png_of
from tests.rendered_images import render

WORDS = encoded(render("some words", "DejaVuSans", 20), "PNG")


class World:
    """A reader and what Prometheus would see of it."""

    def __init__(self, **settings: object) -> None:
        self.telemetry = Telemetry()
        self.reader = ImageReader(Settings(threads=1, **settings), self.telemetry)  # type: ignore[arg-type]

    def value(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"ml_service_{name}", labels) or 0.0

    def results(self) -> dict[str, float]:
        kinds = ("read", "unreadable", "refused", "failed", "rejected")
        counts = {kind: self.value("images_total", result=kind) for kind in kinds}
        return {kind: count for kind, count in counts.items() if count}

    @property
    def pid(self) -> int:
        assert self.reader._process is not None, "it runs"
        return self.reader._process.pid


@asynccontextmanager
async def running(**settings: object) -> AsyncIterator[World]:
    world = World(**settings)
    async with world.reader.running():
        yield world


def in_a_loop(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(act())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_images_are_read_and_drawn_in_one_process_that_starts_with_the_first() -> None:
    async def act() -> None:
        async with running() as world:
            assert world.reader._process is None
            reading = await world.reader.read(WORDS)
            pid = world.pid
            picture = await world.reader.draw(WORDS, reading, "and more")
            assert reading.text == "some words" and picture.startswith(b"\x89PNG")
            assert [each.text for each in await asyncio.gather(*(world.reader.read(WORDS) for _ in range(3)))] == [
                "some words"
            ] * 3
            assert world.pid == pid
            assert os.getpgid(pid) == pid and os.getsid(pid) == os.getsid(0)
            assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        assert not is_alive(pid)
        assert world.results() == {"read": 4}
        assert world.value("image_read_seconds_count") == 4
        assert world.value("image_read_seconds_sum") > 0

    in_a_loop(act)


def test_it_can_start_with_the_service() -> None:
    async def act() -> None:
        async with running(image_reader="at_start") as world:
            assert is_alive(world.pid)

    in_a_loop(act)


def test_what_is_refused_is_refused_in_words_and_the_next_is_read() -> None:
    empty = encoded(Image.new("RGB", (200, 200), "white"), "PNG")

    async def act() -> None:
        async with running(max_image_pixels=100_000) as world:
            with pytest.raises(BadRequest, match="no image that can be read"):
                await world.reader.read(b"<svg/>")
            with pytest.raises(TooLarge, match="more than 100,000 pixels"):
                await world.reader.read(png_of(400, 400))
            with pytest.raises(ModelFailure, match="no text was found"):
                await world.reader.read(empty)
            assert (await world.reader.read(WORDS)).text == "some words"
        assert world.results() == {"refused": 2, "unreadable": 1, "read": 1}

    in_a_loop(act)


def test_a_process_that_dies_fails_the_image_that_it_had_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        async with running() as world:
            monkeypatch.setattr(image_reader, "MODULE", "tests.dying_image_process")
            held, waiting = (asyncio.create_task(world.reader.read(WORDS)) for _ in range(2))
            await until(lambda: world.reader._process is not None)
            monkeypatch.undo()
            with pytest.raises(ModelFailure, match="the process that reads images ended while it had this one"):
                await held
            assert (await waiting).text == "some words"
        assert world.results() == {"read": 1, "failed": 1}

    in_a_loop(act)


def test_a_process_that_dies_between_two_images_fails_none() -> None:
    async def act() -> None:
        async with running() as world:
            await world.reader.read(WORDS)
            first = world.pid
            os.kill(first, signal.SIGSTOP)
            held = asyncio.create_task(world.reader.read(WORDS))  # sent, and never taken
            await until(lambda: world.reader._wanted == 1)
            os.kill(first, signal.SIGKILL)
            assert (await held).text == "some words"
            second = world.pid
            os.kill(second, signal.SIGKILL)
            assert (await world.reader.read(WORDS)).text == "some words"
            assert len({first, second, world.pid}) == 3
        assert world.results() == {"read": 3}

    in_a_loop(act)


def test_an_image_that_takes_too_long_is_given_up() -> None:
    async def act() -> None:
        async with running(image_timeout_s=0.2) as world:
            await world.reader._living()
            stuck = world.pid
            os.kill(stuck, signal.SIGSTOP)
            with pytest.raises(ModelFailure, match=r"takes longer than 0\.2 s"):
                await world.reader.read(WORDS)
            assert not is_alive(stuck)
        assert world.results() == {"failed": 1}

    in_a_loop(act)


def test_too_many_are_refused_and_who_leaves_makes_room() -> None:
    async def act() -> None:
        async with running(max_waiting_images=1) as world:
            await world.reader.read(WORDS)
            os.kill(world.pid, signal.SIGSTOP)
            held, waiting = (asyncio.create_task(world.reader.read(WORDS)) for _ in range(2))
            await until(lambda: world.reader._wanted == 2)
            with pytest.raises(Overloaded, match="one image is read and 1 wait") as refused:
                await world.reader.read(WORDS)
            assert refused.value.retry_after_s > 0
            waiting.cancel()
            await until(lambda: world.reader._wanted == 1)
            another = asyncio.create_task(world.reader.read(WORDS))
            await until(lambda: world.reader._wanted == 2)
            held.cancel()  # it is being read: its place is free when it is done
            await until(held.done)
            assert world.reader._wanted == 2
            os.kill(world.pid, signal.SIGCONT)
            assert (await another).text == "some words"
            assert world.reader._wanted == 0
        assert world.results() == {"read": 2, "rejected": 1}

    in_a_loop(act)


def test_an_idle_process_ends_and_another_starts() -> None:
    async def act() -> None:
        async with running(image_idle_s=0.01) as world:
            await world.reader.read(WORDS)
            await until(lambda: world.reader._process is None)
            assert (await world.reader.read(WORDS)).text == "some words"

    in_a_loop(act)


def test_a_process_that_cannot_live_is_told_and_text_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        monkeypatch.setattr(image_reader, "MODULE", "no.such.module")
        async with running(image_reader="at_start") as world:
            with pytest.raises(Unavailable, match="does not start"):
                await world.reader.read(WORDS)
        assert world.results() == {"failed": 1}

    in_a_loop(act)


def test_a_model_that_was_altered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the same name that lies before the real one, without a model in it."""
    (tmp_path / "rapidocr" / "models").mkdir(parents=True)
    (tmp_path / "rapidocr" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def act() -> None:
        async with running() as world:
            with pytest.raises(Unavailable, match=r"images cannot be read: the model PP-OCRv6_det_small.onnx"):
                await world.reader.read(WORDS)

    in_a_loop(act)


def test_who_asks_while_the_service_ends_is_told() -> None:
    async def act() -> None:
        async with running() as world:
            await world.reader.read(WORDS)
            os.kill(world.pid, signal.SIGSTOP)
            held, waiting = (asyncio.create_task(world.reader.read(WORDS)) for _ in range(2))
            await until(lambda: world.reader._wanted == 2)
        for task in (held, waiting):
            with pytest.raises(Unavailable, match="shutting down"):
                await task

    in_a_loop(act)
