"""Every instrument of the engine moves when it should, and by how much."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from ml_service.common.errors import ModelFailure, Overloaded
from ml_service.inference.decode_loop import DecodeLoop
from ml_service.inference.prefix_cache import PrefixCache
from ml_service.utils.telemetry import Telemetry
from tests.fakes import SMALL, ContextSession
from tests.test_mix import Asked, GenerationParameters, ask

REASONS = ("stop", "length", "abort", "timeout", "error", "rejected")


class World:
    """A loop, its session and what Prometheus would see."""

    def __init__(self) -> None:
        self.session, self.telemetry = ContextSession(slots=2, chunk=16), Telemetry()
        self.loop = DecodeLoop(self.session, 1, self.telemetry, PrefixCache(4, 100), lookup_rows=16)

    def value(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"ml_service_{name}", labels) or 0.0

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def world():  # type: ignore[no-untyped-def]
    world = World()
    yield world
    world.session.gate.set()
    world.loop.stop()


def test_each_request_ends_exactly_once_and_under_its_reason(world: World) -> None:
    def finished() -> dict[str, float]:
        return {reason: world.value("requests_finished_total", finish_reason=reason) for reason in REASONS}

    stops = GenerationParameters(logit_bias={4: 100.0}, stop_token_ids=[4])
    (stopped := Asked([1], stops)) and world.loop.submit(stopped.sequence)
    stopped.end()
    ask(world.loop, [1], max_new_tokens=2, ignore_eos=True).end()
    world.session.fail_next = ModelFailure("refused")
    ask(world.loop, [1]).end()
    world.session.gate.clear()
    soon = time.perf_counter() + 0.2
    late = Asked([1], GenerationParameters(ignore_eos=True, max_new_tokens=60), soon)
    leaver = Asked([2], GenerationParameters(ignore_eos=True, max_new_tokens=50))
    waiting = Asked([3], GenerationParameters(max_new_tokens=1, ignore_eos=True))
    for request in (late, leaver, waiting):
        world.loop.submit(request.sequence)
    with pytest.raises(Overloaded):
        ask(world.loop, [4])
    world.loop.cancel(leaver.sequence)
    while time.perf_counter() < soon:
        time.sleep(0.002)
    world.session.gate.set()
    for request in (late, leaver, waiting):
        request.end()
    assert finished() == {"stop": 1, "length": 2, "abort": 1, "timeout": 1, "error": 1, "rejected": 1}
    assert world.value("admission_rejections_total", reason="queue_full") == 1


def test_load_is_shown_while_it_lasts(world: World) -> None:
    world.session.gate.clear()
    asked = [ask(world.loop, [1 + number] * 20, max_new_tokens=5, ignore_eos=True) for number in range(3)]
    world.until(lambda: world.value("num_requests_running") >= 1)  # and then the loop stands at the gate
    assert world.value("num_requests_waiting") == 3 - world.value("num_requests_running") >= 1
    assert world.loop.last_step_age_s() > 0
    world.session.gate.set()
    for request in asked:
        request.end()
    assert world.value("num_requests_running") == world.value("num_requests_waiting") == 0
    assert world.value("kv_cache_usage_perc") == 0
    assert world.loop.last_step_age_s() == 0


def test_the_cache_fills_while_tokens_are_kept(world: World) -> None:
    seen = []
    run = world.session.run

    def watched(rows):  # type: ignore[no-untyped-def]
        seen.append(world.value("kv_cache_usage_perc"))
        return run(rows)

    world.session.run = watched  # type: ignore[method-assign]
    ask(world.loop, [1] * 8, max_new_tokens=50, ignore_eos=True, repetition_penalty=1.3).end()
    ask(world.loop, [2] * 8, max_new_tokens=50, ignore_eos=True, temperature=2.0, seed=1).end()
    assert max(seen) > 8 / (2 * SMALL.context_length)
    assert max(seen) <= 1


def test_tokens_and_times_are_counted(world: World) -> None:
    prompt = list(range(1, 21))
    for _ in range(2):
        ask(world.loop, prompt, max_new_tokens=40, ignore_eos=True).end()
    assert world.value("prompt_tokens_total") == 40
    assert world.value("generation_tokens_total") == 80
    assert world.value("prefix_cache_queries_total") == 40
    assert world.value("prefix_cache_hits_total") == 16
    assert world.value("time_to_first_token_seconds_count") == 2
    assert world.value("inter_token_latency_seconds_count") == 78
    for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time"):
        assert world.value(f"{name}_seconds_count") == 2
        assert world.value(f"{name}_seconds_sum") > 0
    steps = [sum(len(row.token_ids) for row in batch) for batch in world.session.batches]
    assert world.value("iteration_tokens_total_count") == len(steps)
    assert world.value("iteration_tokens_total_sum") == sum(steps)
    ask(world.loop, [1, 2, 3], max_new_tokens=60, ignore_eos=True).end()
    drafted = world.value("spec_decode_num_draft_tokens_total")
    assert drafted >= world.value("spec_decode_num_accepted_tokens_total") > 0


def test_many_values_at_once_are_a_histogram_as_any_other() -> None:
    telemetry = Telemetry()
    values = [0.0003, 0.001, 0.0011, 0.3, 5.0]
    telemetry.inter_token.observe_many(values)
    value = telemetry.registry.get_sample_value
    name = "ml_service_inter_token_latency_seconds"
    assert value(f"{name}_bucket", {"le": "0.001"}) == 2
    assert value(f"{name}_bucket", {"le": "0.5"}) == 4
    assert value(f"{name}_bucket", {"le": "+Inf"}) == value(f"{name}_count") == 5
    assert math.isclose(value(f"{name}_sum") or 0, sum(values))
