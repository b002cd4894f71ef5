"""The watch over a fresh deployment: does it fail more, or answer slower, than what answered before? Pure decisions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_service.inference.track_record import Pace, Seen

_FEWEST_ERRORS = 3
_FEWEST_ALIKE = 20
"""Answers of each model under about the same load: a p95 of fewer is noise."""
_NOT_FELT_S = 0.002
"""A difference between two tokens that nobody feels, whatever its ratio."""
_CERTAINTY = 1.96
_LONGEST = 10
"""Times the length of a watch."""


@dataclass(frozen=True)
class Limits:
    """What a deployment must keep to."""

    seconds: float
    requests: int
    error_ratio: float
    """So much more than the model before."""
    p95_factor: float
    """So many times that of the model before, under the same load."""

    @property
    def longest_s(self) -> float:
        """A watch that sees too few requests ends after this."""
        return _LONGEST * self.seconds


@dataclass(frozen=True)
class Verdict:
    """What the figures say by now."""

    figures: dict[str, Any]
    fault: str | None
    """In words; None where there is none that is certain."""


def judge(old: Seen, new: Seen, limits: Limits) -> Verdict:
    """Compare a fresh model with the one before.

    A fault must be certain: three errors at least, and a ratio whose lower bound (Wilson 1927, 95 %) is over the limit;
    for speed as many answers as a watch wants, compared only with answers that had about as many others beside them,
    for a load that grows is no fault of a model's.
    """
    errors_more = _ratio(new) - _ratio(old)
    old_s, new_s, alike = _p95_under_the_same_load(old.paces, new.paces)
    figures = {
        "requests": new.requests,
        "errors": new.errors,
        "error_ratio": round(_ratio(new), 4),
        "error_ratio_before": round(_ratio(old), 4),
        "p95_ms": _ms(new_s),
        "p95_before_ms": _ms(old_s),
        "compared": alike,
    }
    fault = None
    if new.errors >= _FEWEST_ERRORS and _lower_bound(new.errors, new.recent) > _ratio(old) + limits.error_ratio:
        fault = f"{new.errors} of the latest {new.recent} requests failed, {errors_more:.1%} more than before"
    elif (
        old_s is not None
        and new_s is not None
        and alike >= limits.requests
        and new_s > limits.p95_factor * old_s
        and new_s - old_s > _NOT_FELT_S
    ):
        fault = (
            f"95 % of its tokens come within {new_s * 1e3:.1f} ms, under the same load they came in {old_s * 1e3:.1f}"
        )
    return Verdict(figures, fault)


def is_over(new: Seen, elapsed_s: float, limits: Limits) -> bool:
    """Whether enough was seen; also where too little comes to ever see enough."""
    seen_enough = new.requests >= limits.requests
    return elapsed_s >= (limits.seconds if seen_enough else limits.longest_s)


def _ratio(seen: Seen) -> float:
    return seen.errors / seen.recent if seen.recent else 0.0


def _lower_bound(errors: int, requests: int) -> float:
    share, z2 = errors / requests, _CERTAINTY**2
    spread = _CERTAINTY * math.sqrt(share * (1 - share) / requests + z2 / (4 * requests**2))
    return (share + z2 / (2 * requests) - spread) / (1 + z2 / requests)


def _p95_under_the_same_load(old: Iterable[Pace], new: Iterable[Pace]) -> tuple[float | None, float | None, int]:
    """Both models' p95 in seconds over the loads that both have seen, and how many answers of the new one that is."""
    olds, news = _by_load(old), _by_load(new)
    loads = [load for load in olds.keys() & news.keys() if min(len(olds[load]), len(news[load])) >= _FEWEST_ALIKE]
    if not loads:
        return None, None, 0
    weights = [len(news[load]) for load in loads]
    old_s, new_s = (
        float(np.average([np.quantile(times[load], 0.95) for load in loads], weights=weights)) for times in (olds, news)
    )
    return old_s, new_s, sum(weights)


def _by_load(paces: Iterable[Pace]) -> dict[int, list[float]]:
    """Loads that are alike within a factor of two go together."""
    times: dict[int, list[float]] = defaultdict(list)
    for pace in paces:
        times[pace.beside.bit_length()].append(pace.token_s)
    return times


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
