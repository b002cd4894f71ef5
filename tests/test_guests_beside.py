"""Guests beside what is deployed: memory, deployments of the very same experiment, drain; nothing is lost or mixed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_service.common.settings import Settings
from ml_service.inference import live as live_module
from tests.http_world import FP32, INT8, World, opened_world
from tests.test_http import PROMPT
from tests.test_http_guests import listed, refused


@pytest.fixture
def world(settings: Settings, bundle_fp32: Path) -> Iterator[World]:
    with opened_world(settings.model_copy(update={"max_guests": 1}), bundle_fp32) as world:
        yield world


def test_a_guest_leaves_the_memory_to_what_is_deployed(
    world: World, bundle_fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = world.app.state.live.current.engine
    model_bytes = 2 * sum(file.stat().st_size for file in bundle_fp32.glob("model.*"))
    monkeypatch.setattr(live_module, "free_bytes", lambda: model_bytes + active.cache_bytes)
    words = refused(world, str(FP32), 503)
    assert words.startswith("there is no room for experiment 2 beside what answers: it does not fit: the weights take")
    assert world.answering() == (INT8, "int8", 1)
    assert listed(world) == ["active", "small", "1"]
    monkeypatch.undo()
    assert world.ask(model=str(FP32))["model"]["experiment_id"] == FP32


def test_where_a_guest_is_deployed_its_requests_end_on_it_and_new_ones_do_not(world: World) -> None:
    world.ask(model=str(FP32))
    live = world.app.state.live
    guest = live.take_experiment(FP32)
    world.deploy(FP32)
    assert live.current.engine is not guest.engine
    assert live.current.engine.slots == world.settings.slots
    assert world.ask(model=str(FP32))["model"]["generation"] == 2
    assert guest.engine in live._open
    live.give_back(guest)
    world.until(lambda: guest.engine not in live._open)
    assert world.ask(model=str(INT8))["model"]["generation"] == 0  # what was active before is a guest now


def test_a_deployment_has_the_memory_of_guests_that_rest(world: World) -> None:
    world.ask(model=str(FP32))
    world.deploy(INT8)  # is open: nothing is needed
    assert listed(world) == ["active", "small", "1", "2"]
    world.deploy(FP32, strategy="shadow")
    world.client.delete("/deploy/shadow")
    assert listed(world) == ["active", "small", "1"]


def test_deployments_and_guests_at_once_lose_and_mix_nothing(world: World) -> None:
    expected = {number: world.ask(model=str(number))["prediction"] for number in (INT8, FP32)}
    is_over, problems, asked = threading.Event(), [], []

    def ask(number: int) -> None:
        while not is_over.is_set():
            answer = world.client.post("/forward", json=PROMPT | {"model": str(number)})
            told = answer.json()
            asked.append(number)
            if answer.status_code != 200 or told["model"]["experiment_id"] != number:
                problems.append(answer.text)
            elif told["prediction"] != expected[number]:
                problems.append(f"mixed: {told}")

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in (INT8, FP32) * 2]
        for number in (FP32, INT8) * 4:
            world.deploy(number)
            time.sleep(0.1)
        is_over.set()
    assert [each.exception() for each in asking] == [None] * 4
    assert problems == []
    assert {INT8, FP32} == set(asked)


def test_draining_ends_guests_and_opens_none(world: World) -> None:
    world.ask(model=str(FP32))
    live = world.app.state.live
    live.drain()
    world.until(lambda: len(live._open) == 1)
    assert refused(world, str(FP32), 503) == "the service is shutting down"
