"""The models of a process: who takes one keeps it, who leaves last closes it; shares and sticking of a canary."""

from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from ml_service.backend.dependencies import _bucket
from ml_service.backend.door import HOLDER
from ml_service.common.errors import NotFound, Unavailable
from ml_service.data.api_keys import ENVIRONMENT, Holder
from ml_service.inference.handles import BUCKETS, Handles, Live, random_bucket
from ml_service.inference.live import LiveModel
from ml_service.utils.logs import request_id


class StubEngine:
    """Knows whether it was stopped, and how often."""

    def __init__(self) -> None:
        self.stops = 0
        self.observers: tuple[object, ...] = ()
        self.age_s = 0.0

    def stop(self) -> None:
        self.stops += 1

    def last_step_age_s(self) -> float:
        return self.age_s


def a_model(name: str = "first", experiment_id: int = 1, generation: int = 1) -> Any:
    manifest: Any = SimpleNamespace(experiment=name)
    nothing: Any = None
    return LiveModel(manifest, {}, nothing, StubEngine(), nothing, name, experiment_id, generation, generation)  # type: ignore[arg-type]


def never() -> int:
    raise AssertionError("without a canary nobody is asked for a bucket")


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_without_a_model_or_while_draining_nobody_gets_one() -> None:
    live = Live()
    with pytest.raises(Unavailable, match="no model"):
        live.take(never)
    live.hold(a_model())
    live.drain()
    with pytest.raises(Unavailable, match="shutting down"):
        live.take(never)


def test_who_took_a_model_ends_on_it_and_the_last_one_closes_it() -> None:
    live, old, new = Live(), a_model(), a_model("second", 2, 2)
    live.hold(old)
    taken = [live.take(never) for _ in range(3)]
    live.hold(new)
    assert live.take(never) is new
    assert live.busy == 4
    live.give_back(new)
    for model in taken[:2]:
        assert model is old
        live.give_back(model)
    assert old.engine.stops == 0
    live.give_back(old)
    until(lambda: old.engine.stops == 1)
    assert (live.busy, new.engine.stops) == (0, 0)
    live.close()
    assert (old.engine.stops, new.engine.stops) == (1, 1)


def test_a_model_that_nobody_uses_is_closed_at_once_and_one_that_stays_is_not() -> None:
    live, active, canary = Live(), a_model(), a_model("second", 2, 2)
    live.swap(Handles(1, active, canary, 10))
    live.swap(Handles(2, active))
    until(lambda: canary.engine.stops == 1)
    renamed = LiveModel(**{**vars(active), "generation": 3})
    live.swap(Handles(3, renamed))
    assert active.engine.stops == 0
    assert live.take(never).generation == 3


def test_closing_ends_every_engine_though_somebody_uses_it() -> None:
    live, old, new = Live(), a_model(), a_model("second", 2, 2)
    live.hold(old)
    live.take(never)
    live.hold(new)
    live.close()
    assert (old.engine.stops, new.engine.stops) == (1, 1)
    live.give_back(old)
    assert old.engine.stops == 1


def test_the_oldest_step_of_all_engines_counts_also_of_those_that_only_end() -> None:
    live, old, new = Live(), a_model(), a_model("second", 2, 2)
    live.hold(old)
    live.take(never)
    live.hold(new)
    old.engine.age_s = 7.0
    assert live.last_step_age_s() == 7.0
    live.give_back(old)
    assert live.last_step_age_s() == 0.0


def test_models_are_found_by_role_name_and_number() -> None:
    live, active, canary = Live(), a_model("same", 1), a_model("same", 2, 2)
    shadow: Any = SimpleNamespace(model=a_model("third", 3, 3), offer=lambda answered: None)
    live.swap(Handles(3, active, canary, 0.0, shadow))
    assert list(live.models) == ["active", "canary", "shadow", "same", "1", "2", "third", "3"]
    expected = {"active": active, "same": active, "2": canary, "canary": canary, "shadow": shadow.model}
    for name, model in expected.items():
        assert live.take(lambda: BUCKETS - 1, name) is model
    assert len(active.engine.observers) == 1
    with pytest.raises(NotFound, match="there is no model 'gpt-4' here: ask for active, canary"):
        live.take(never, "gpt-4")


@given(st.floats(0, 100), st.floats(0, 100), st.integers(0, BUCKETS - 1))
def test_who_is_in_a_small_canary_is_in_a_larger_one_too(first: float, second: float, bucket: int) -> None:
    live, active, canary = Live(), a_model(), a_model("second", 2, 2)
    small, large = sorted((first, second))
    live.swap(Handles(1, active, canary, small))
    if live.take(lambda: bucket) is canary:
        live.swap(Handles(2, active, canary, large))
        assert live.take(lambda: bucket) is canary


@pytest.mark.parametrize("percent", [0.0, 0.5, 10.0, 50.0, 100.0])
def test_a_canary_gets_its_share_of_many_requests(percent: float) -> None:
    live, active, canary = Live(), a_model(), a_model("second", 2, 2)
    live.swap(Handles(1, active, canary, percent))
    asked = [request_with(f"client-{number}") for number in range(4000)]
    share = sum(live.take(lambda r=request: bucket_of(r)) is canary for request in asked) / len(asked)  # type: ignore[misc]
    assert abs(share - percent / 100) < 0.03
    if percent in (0.0, 100.0):
        assert share == percent / 100
        assert (live.take(random_bucket) is canary) == bool(percent)


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_same_client_is_always_in_the_same_bucket(key: str, other: str) -> None:
    first = bucket_of(request_with("a", key))
    assert 0 <= first < BUCKETS
    assert bucket_of(request_with("b", key)) == first
    assert bucket_of(request_with(key)) == first
    if key != other:  # equal by chance once in ten thousand
        assert bucket_of(request_with(other)) in range(BUCKETS)


def test_all_who_have_the_key_of_the_environment_are_told_apart_by_their_requests() -> None:
    buckets = {bucket_of(request_with(str(number), ENVIRONMENT)) for number in range(50)}
    assert len(buckets) > 1


def request_with(id_: str, key: str | None = None) -> Request:
    scope: dict[str, Any] = {"type": "http", "headers": [], "id": id_}
    return Request(scope | ({HOLDER: Holder(key, frozenset())} if key is not None else {}))


def bucket_of(request: Request) -> int:
    token = request_id.set(request.scope["id"])
    try:
        return _bucket(request)
    finally:
        request_id.reset(token)


def test_nothing_is_closed_in_use_and_everything_once_whatever_the_order() -> None:
    live, models = Live(), [a_model(str(number), number, number) for number in range(200)]
    live.hold(models[0])
    is_over, problems = threading.Event(), []

    def use() -> None:
        source = random.Random()
        while not is_over.is_set():
            taken = [live.take(never) for _ in range(source.randint(1, 3))]
            if any(model.engine.stops for model in taken):  # type: ignore[attr-defined]
                problems.append("a model was closed while it was used")
            for model in taken:
                live.give_back(model)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    for model in models[1:]:
        live.hold(model)
    is_over.set()
    for user in users:
        user.join()
    live.close()
    assert problems == []
    assert [model.engine.stops for model in models] == [1] * 200
    assert live.busy == 0
