"""Figures of deployments: old beside new, over the time that the page is open; who answered when; scores. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ml_service.frontend import words
from ml_service.frontend.deployments.words import Row, how, name_of

Role = Literal["active", "canary", "shadow"]
Lane = Literal["answered", "canary", "shadow"]
_LANES: Mapping[str, Lane] = {"canary": "canary", "shadow": "shadow"}
_MOST_POINTS = 240
_STILL_S = 10.0
"""What does not change is noted this often, so that its line goes on."""
_LOWER_IS_BETTER = ("loss", "bits_per_byte", "perplexity", "cer", "wer")
_HIGHER_IS_BETTER = ("accuracy", "exact_match", "chrf", "bleu", "rougeL")
_NO_SCORE = ("tokens", "bytes", "count")


@dataclass(frozen=True)
class Trial:
    """What is tried or watched: a canary, a shadow, or the active model that has just replaced another."""

    role: Role
    row: Row
    watch: Row | None = None
    agreement: Row | None = None

    @property
    def key(self) -> tuple[str, int]:
        """One and the same from look to look."""
        return self.role, self.row["id"]


def trials_of(data: Row) -> list[Trial]:
    """All that there are."""
    watched = {each["deployment_id"]: each for each in data["watched"]}
    active, canary, shadow = (data[role] for role in ("active", "canary", "shadow"))
    found = [Trial("canary", canary, watched.get(canary["id"]))] if canary else []
    found += [Trial("shadow", shadow, agreement=data["agreement"])] if shadow else []
    return found + ([Trial("active", active, watched[active["id"]])] if active and active["id"] in watched else [])


@dataclass(frozen=True)
class Beside:
    """A figure of the old model beside the new one's; shares are percent."""

    name: str
    unit: str
    old: float | None
    new: float | None

    def told(self, value: float | None) -> str:
        """With its unit."""
        return words.NOTHING if value is None else f"{value:.{1 if self.unit == '%' else 2}f} {self.unit}"

    def width(self, value: float | None) -> float:
        """Of its bar, in percent."""
        most = max(self.old or 0.0, self.new or 0.0)
        return 0.0 if not value or not most else round(100 * value / most, 1)


def errors_and_speed(trial: Trial) -> list[Beside]:
    """Of both models, as the process that was asked saw them."""
    if trial.role == "shadow":
        seen = trial.agreement or {}
        return [
            Beside(name, "ms", seen.get(f"active_{key}_ms"), seen.get(f"shadow_{key}_ms"))
            for name, key in (("Between tokens, median", "p50"), ("Between tokens, 95 % within", "p95"))
        ]
    seen = trial.watch["figures"] if trial.watch else {}
    return [
        Beside("Requests that fail", "%", _hundredfold(seen.get("error_ratio_before")), _errors(seen)),
        Beside("Between tokens, 95 % within", "ms", seen.get("p95_before_ms"), seen.get("p95_ms")),
    ]


def agreement(trial: Trial) -> Beside:
    """How far a shadow says the same: very same answers, and how much of an answer begins alike."""
    seen = trial.agreement or {}
    return Beside("", "%", _hundredfold(seen.get("same_ratio")), _hundredfold(seen.get("common_ratio")))


def _errors(seen: Mapping[str, Any]) -> float | None:
    return _hundredfold(seen["error_ratio"]) if seen.get("requests") else None


def _hundredfold(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


@dataclass
class Course:
    """How two figures went, in points that are no more than a chart needs."""

    times_ms: list[int] = field(default_factory=list)
    olds: list[float | None] = field(default_factory=list)
    news: list[float | None] = field(default_factory=list)

    def note(self, at_s: float, old: float | None, new: float | None) -> bool:
        """Whether there is something to draw anew."""
        at_ms = round(at_s * 1000)
        is_known = bool(self.times_ms) and (old, new) == (self.olds[-1], self.news[-1])
        if (old is None and new is None) or (is_known and at_ms - self.times_ms[-1] < _STILL_S * 1000):
            return False
        for column, value in ((self.times_ms, at_ms), (self.olds, old), (self.news, new)):
            column.append(value)  # type: ignore[arg-type]
        if len(self.times_ms) > _MOST_POINTS:
            for column in (self.times_ms, self.olds, self.news):
                del column[1::2]  # what is long ago is told coarsely
        return True

    def lines(self, old: str, new: str) -> dict[str, list[tuple[int, float | None]]]:
        """As a chart draws them."""
        return {
            name: list(zip(self.times_ms, values, strict=True)) for name, values in ((old, self.olds), (new, self.news))
        }


@dataclass(frozen=True)
class Span:
    """A time in which an experiment answered, or was tried."""

    lane: Lane
    row: Row
    start: datetime
    end: datetime

    @property
    def told(self) -> str:
        """In one line."""
        lasting = words.duration((self.end - self.start).total_seconds())
        return f"{name_of(self.row)}, {how(self.row)}: from {words.clock(self.row['activated'])}, {lasting}"


def spans_of(history: Sequence[Row], now: datetime) -> list[Span]:
    """The earliest first."""
    found = []
    for row in reversed(history):
        if (start := words.moment(row["activated"])) is not None:
            lane = _LANES.get(row["strategy"], "answered")
            found.append(Span(lane, row, start, max(start, words.moment(row["retired"]) or now)))
    return found


@dataclass(frozen=True)
class Score:
    """A score of the chosen beside the active one's."""

    name: str
    chosen: float | None
    active: float | None

    @property
    def change(self) -> str:
        """In words: `1.2 % better`; empty where nothing can be said."""
        kind = _direction(self.name)
        if self.chosen is None or self.active is None or not self.active:
            return ""
        more = (self.chosen - self.active) / abs(self.active)
        if abs(more) < 0.0005:
            return "the same"
        word = ("more" if more > 0 else "less") if not kind else "better" if more * kind > 0 else "worse"
        return f"{abs(more):.1%} {word}".replace("%", " %")


def scores_beside(chosen: Row, active: Row | None) -> list[Score]:
    """Those of both first; what a retraining was judged beside is the active model's where that is its parent."""
    ours, theirs = _flat(chosen["metrics"].get("scores")), {}
    if active is not None and active["experiment_id"] != chosen["experiment_id"]:
        theirs = _flat(active["metrics"].get("scores"))
        if chosen["parent_id"] == active["experiment_id"]:
            theirs |= _flat(chosen["metrics"].get("baseline"))
    found = [Score(name, value, theirs.get(name)) for name, value in ours.items()]
    return sorted(found, key=lambda score: score.active is None)


def _flat(scores: object, prefix: str = "") -> dict[str, float]:
    """Without counts, and without what bits per byte say already."""
    flat: dict[str, float] = {}
    for key, value in scores.items() if isinstance(scores, Mapping) else ():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}: ")
        elif isinstance(value, int | float) and key not in _NO_SCORE:
            flat[f"{prefix}{key}"] = value
    return {name: value for name, value in flat.items() if not _is_told_by_another(name, flat)}


def _is_told_by_another(name: str, scores: Mapping[str, float]) -> bool:
    stems = [name.removesuffix(ending) for ending in ("loss", "byte_perplexity") if name.endswith(ending)]
    return any(f"{stem}bits_per_byte" in scores for stem in stems)


def _direction(name: str) -> int:
    return -1 if name.endswith(_LOWER_IS_BETTER) else 1 if name.endswith(_HIGHER_IS_BETTER) else 0
