"""What was measured and what it amounts to: percentiles, rates, counts; pure functions of the outcomes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ml_service.pipeline.load.workload import Load


@dataclass
class Outcome:
    """One request and how it went; times are seconds since the measurement began."""

    index: int
    started_s: float
    """When it was due: a client that was late to send it counts against the answer, as it would for its user."""
    arrivals_s: list[float] = field(default_factory=list)
    """When the tokens of a stream came; two that came together have the same time."""
    ended_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    failure: str | None = None

    @property
    def first_token_s(self) -> float | None:
        """From the start to the first token; None where the answer came whole."""
        return self.arrivals_s[0] - self.started_s if self.arrivals_s else None

    @property
    def end_to_end_s(self) -> float:
        """From the start to the end of the answer."""
        return self.ended_s - self.started_s

    def gaps_s(self) -> list[float]:
        """Between one token and the next."""
        return [after - before for before, after in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]


@dataclass(frozen=True)
class Measurement:
    """One load and all that came of it."""

    load: Load
    outcomes: list[Outcome]
    seconds: float
    """From the first request's start to the last answer's end."""
    client_cpu_s: float
    """Processor time that the asking process used; with the engine inside it, the engine's too."""
    is_interrupted: bool

    @property
    def answered(self) -> list[Outcome]:
        """Requests that did not fail."""
        return [outcome for outcome in self.outcomes if outcome.failure is None]


@dataclass(frozen=True)
class Distribution:
    """Milliseconds of many: their mean and percentiles."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values_s: Sequence[float]) -> Distribution | None:
        """From seconds; None where there are none."""
        if not values_s:
            return None
        ordered_ms = sorted(value * 1e3 for value in values_s)
        mean = math.fsum(ordered_ms) / len(ordered_ms)
        return cls(mean, *(percentile(ordered_ms, share) for share in (0.5, 0.9, 0.99)))


@dataclass(frozen=True)
class Summary:
    """What a measurement amounts to. Rates and times are of the requests that were answered."""

    concurrency: int | None
    rate: float | None
    requests: int
    failed: int
    failures: dict[str, int]
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    tokens_per_second: float
    requests_per_second: float
    first_token_ms: Distribution | None
    inter_token_ms: Distribution | None
    end_to_end_ms: Distribution | None
    client_cpu_share: float
    """Of one core."""
    is_interrupted: bool


def summarise(measurement: Measurement) -> Summary:
    """One measurement in a few numbers."""
    answered, seconds = measurement.answered, max(measurement.seconds, 1e-9)
    failures = Counter(outcome.failure for outcome in measurement.outcomes if outcome.failure is not None)
    completion_tokens = sum(outcome.completion_tokens for outcome in answered)
    return Summary(
        concurrency=measurement.load.concurrency,
        rate=measurement.load.rate,
        requests=len(measurement.outcomes),
        failed=failures.total(),
        failures=dict(failures.most_common()),
        seconds=measurement.seconds,
        prompt_tokens=sum(outcome.prompt_tokens for outcome in answered),
        cached_tokens=sum(outcome.cached_tokens for outcome in answered),
        completion_tokens=completion_tokens,
        tokens_per_second=completion_tokens / seconds,
        requests_per_second=len(answered) / seconds,
        first_token_ms=Distribution.of(first_tokens_s(answered)),
        inter_token_ms=Distribution.of([gap for outcome in answered for gap in outcome.gaps_s()]),
        end_to_end_ms=Distribution.of([outcome.end_to_end_s for outcome in answered]),
        client_cpu_share=measurement.client_cpu_s / seconds,
        is_interrupted=measurement.is_interrupted,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which so large a share of the sorted values lies; straight lines between neighbours."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def first_tokens_s(outcomes: Sequence[Outcome]) -> list[float]:
    """Times to the first token, of those that streamed."""
    return [first for outcome in outcomes if (first := outcome.first_token_s) is not None]


def tokens_over_time(outcomes: Sequence[Outcome], seconds: float, bins: int) -> list[float]:
    """Tokens a second in each of `bins` equal parts of the time.

    A stream's tokens count when they came. Those of a whole answer are spread evenly over the time that it took.
    """
    width_s = max(seconds, 1e-9) / bins
    tokens = [0.0] * bins
    for outcome in outcomes:
        times = outcome.arrivals_s or _spread(outcome)
        for time_s in times:
            tokens[min(int(time_s / width_s), bins - 1)] += outcome.completion_tokens / len(times)
    return [count / width_s for count in tokens]


def _spread(outcome: Outcome) -> list[float]:
    count = outcome.completion_tokens
    return [outcome.started_s + outcome.end_to_end_s * (number + 0.5) / count for number in range(count)]
