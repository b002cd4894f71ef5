"""The last quarter of an hour in figures, for who looks without Prometheus: rates, quantiles and loads of a process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from lib.background import beside
from lib.memory import resident_bytes

EVERY_S = 5.0
KEPT = 180
"""Points: a quarter of an hour."""
_REFUSALS = frozenset({"rejected"})
_FAULTS = frozenset({"error", "timeout"})
_RATES = {
    "prompt_tokens_per_second": "ml_service_prompt_tokens_total",
    "generation_tokens_per_second": "ml_service_generation_tokens_total",
}
_LEVELS = {
    "running": "ml_service_num_requests_running",
    "waiting": "ml_service_num_requests_waiting",
    "cache_share": "ml_service_kv_cache_usage_perc",
}
_HISTOGRAMS = {
    "latency": "ml_service_e2e_request_latency_seconds",
    "first_token": "ml_service_time_to_first_token_seconds",
    "between_tokens": "ml_service_inter_token_latency_seconds",
}
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_FINISHED = "ml_service_requests_finished_total"
_HITS, _QUERIES = "ml_service_prefix_cache_hits_total", "ml_service_prefix_cache_queries_total"
_SINGLE = frozenset({*_RATES.values(), *_LEVELS.values(), _HITS, _QUERIES})
_NAMES = (*_SINGLE, _FINISHED, *(f"{name}_bucket" for name in _HISTOGRAMS.values()))
Point = dict[str, float | None]


@dataclass
class Reading:
    """The instruments at a moment."""

    at: float
    """By `time.time()`."""
    processor_s: float = 0.0
    """Processor time that this process has used."""
    memory_bytes: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    """Requests by how they ended."""
    buckets: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Of each histogram: upper limits and how many values were not above."""

    @classmethod
    def of(cls, registry: CollectorRegistry) -> Reading:
        """What they say now."""
        reading = cls(time.time(), time.process_time(), resident_bytes())
        for metric in registry.restricted_registry(_NAMES).collect():
            for sample in metric.samples:
                if sample.name == _FINISHED:
                    reading.finished[sample.labels["finish_reason"]] = sample.value
                elif sample.name.endswith("_bucket"):
                    limits = reading.buckets.setdefault(sample.name.removesuffix("_bucket"), [])
                    limits.append((float(sample.labels["le"]), sample.value))
                elif sample.name in _SINGLE:
                    reading.values[sample.name] = sample.value
        return reading


class Recent:
    """A point for every five seconds of the last fifteen minutes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._points: deque[Point] = deque(maxlen=KEPT)

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """While the block runs."""
        async with beside(self._sample()):
            yield

    async def _sample(self) -> None:
        before = Reading.of(self._registry)
        while True:
            await asyncio.sleep(EVERY_S)
            now = Reading.of(self._registry)
            self._points.append(point_between(before, now))
            before = now

    def columns(self) -> dict[str, list[float | None]]:
        """Name → its values, the oldest first; null where there was no traffic to tell from."""
        points = tuple(self._points)
        return {name: [point[name] for point in points] for name in point_between(Reading(0.0), Reading(1.0))}


def point_between(before: Reading, now: Reading) -> Point:
    """What has happened from one reading to the next."""
    seconds = max(now.at - before.at, 1e-9)

    def grown(name: str) -> float:
        return now.values.get(name, 0.0) - before.values.get(name, 0.0)

    ended = {reason: count - before.finished.get(reason, 0.0) for reason, count in now.finished.items()}
    point: Point = {"time": now.at, "requests_per_second": sum(ended.values()) / seconds}
    for name, reasons in (("refused_per_second", _REFUSALS), ("failed_per_second", _FAULTS)):
        point[name] = sum(count for reason, count in ended.items() if reason in reasons) / seconds
    point |= {name: grown(counter) / seconds for name, counter in _RATES.items()}
    point |= {name: now.values.get(gauge) for name, gauge in _LEVELS.items()}
    point |= {"memory_bytes": now.memory_bytes, "processor_cores": (now.processor_s - before.processor_s) / seconds}
    point["prefix_hit_share"] = grown(_HITS) / grown(_QUERIES) if grown(_QUERIES) else None
    for name, histogram in _HISTOGRAMS.items():
        buckets = _difference(now.buckets.get(histogram, ()), before.buckets.get(histogram, ()))
        point |= {f"{name}_{label}_s": quantile(buckets, share) for label, share in _QUANTILES.items()}
    return point


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """From cumulative counts, between two limits in proportion, as PromQL's `histogram_quantile` does it."""
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    wanted, lower, below = share * total, 0.0, 0.0
    for upper, count in buckets:
        if count >= wanted:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (wanted - below) / (count - below)
        lower, below = upper, count
    return lower


def _difference(now: Sequence[tuple[float, float]], before: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if not before:
        return list(now)
    return [(limit, count - earlier) for (limit, count), (_, earlier) in zip(now, before, strict=True)]
