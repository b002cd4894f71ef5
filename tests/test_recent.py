"""The last quarter of an hour in figures: rates from counters, quantiles from buckets, and over HTTP."""

from __future__ import annotations

import math

from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from ml_service.utils.recent import KEPT, Reading, Recent, point_between, quantile
from ml_service.utils.telemetry import Telemetry


def finish(telemetry: Telemetry, reason: str, seconds: float, tokens: int) -> None:
    telemetry.request_finished(reason, 10, 0.0, 0.01, seconds, seconds)
    telemetry.generation_tokens.inc(tokens)


def test_a_point_tells_what_happened_between_two_readings_and_nothing_before() -> None:
    telemetry = Telemetry()
    finish(telemetry, "stop", 30.0, 1000)
    before = Reading.of(telemetry.registry)
    for reason in ("stop", "length", "error", "timeout"):
        finish(telemetry, reason, 0.25, 5)
    telemetry.finished.labels("rejected").inc()
    now = Reading.of(telemetry.registry)
    now.at = before.at + 2
    point = point_between(before, now)
    assert point["requests_per_second"] == 2.5
    assert (point["failed_per_second"], point["refused_per_second"]) == (1.0, 0.5)
    assert point["generation_tokens_per_second"] == 10
    assert point["prompt_tokens_per_second"] == 20
    assert 0.2 < (point["latency_p50_s"] or 0) <= 0.3
    assert point["first_token_p50_s"] is None
    assert (point["memory_bytes"] or 0) > 1 << 20


def test_only_a_quarter_of_an_hour_is_kept() -> None:
    recent = Recent(Telemetry().registry)
    for second in range(KEPT + 20):
        recent._points.append(point_between(Reading(float(second)), Reading(second + 1.0)))
    columns = recent.columns()
    assert {len(column) for column in columns.values()} == {KEPT}
    assert columns["time"][-1] == KEPT + 20


LIMITS = (0.1, 0.5, 1.0, math.inf)


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4).filter(any), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_that_holds_it(counts: list[int], share: float) -> None:
    totals = [sum(counts[: number + 1]) for number in range(4)]
    value = quantile(list(zip(LIMITS, totals, strict=True)), share)
    assert value is not None
    held = next(limit for limit, total in zip(LIMITS, totals, strict=True) if total >= share * totals[-1])
    lower = max((limit for limit in (0.0, *LIMITS) if limit < held), default=0.0)
    assert lower <= value <= (lower if held == math.inf else held)


def test_no_traffic_has_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None


def test_it_is_there_over_http(client: TestClient) -> None:
    answer = client.get("/health/recent").json()
    assert answer["every_s"] == 5
    assert {"time", "requests_per_second", "latency_p95_s", "waiting", "memory_bytes"} <= set(answer["series"])
    assert len({len(column) for column in answer["series"].values()}) == 1
