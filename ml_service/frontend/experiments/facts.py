"""What pages say of experiments: states, scores beside those of before, data, sizes, progress, plans; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lib.nested import flattened
from ml_service.frontend import words

NEW = "new"
"""The source of what a retraining adds; all the others are what the model knew before."""
SCORE = "bits_per_byte"
FINISHED = ("succeeded", "failed", "cancelled")
STATES = {"running": "busy", "queued": "", "succeeded": "good", "failed": "bad", "cancelled": ""}
"""State → how its badge looks."""
ROLES = ("active", "shadow", "canary")
_VALIDATION, _ROUNDING = "validation_", 5e-4


@dataclass(frozen=True)
class Scored:
    """Bits per byte of a held-out text, and of the model before on the same."""

    value: float | None
    before: float | None = None
    is_foreign: bool = False
    """It was measured where the bundle came from, on other documents than here."""
    size_bytes: int | None = None
    """Of the held-out text: only on the same text do scores compare."""

    @property
    def words(self) -> str:
        """As it is read: `2.980`."""
        return words.score(self.value)

    @property
    def account(self) -> str:
        """With what it was before, in a sentence."""
        if self.value is None:
            return ""
        told = f"{self.words} bits per byte"
        if self.is_foreign:
            return f"{told}, measured where it came from, on other documents than here"
        return told if self.before is None else f"{told}, the model before {words.score(self.before)}"

    @property
    def change(self) -> str:
        """With its sign; empty where there is nothing to compare with, or no difference that can be seen."""
        if self.value is None or self.before is None or abs(self.value - self.before) < _ROUNDING:
            return ""
        return f"{self.value - self.before:+.3f}"

    @property
    def kind(self) -> str:
        """`good` where it became better (lower), `bad` where worse."""
        if not self.change:
            return ""
        return "good" if self.change.startswith("-") else "bad"


def scores_of(metrics: Mapping[str, Any]) -> dict[str, Scored]:
    """Source → its bits per byte, the new text first. A bundle that came from outside has its own, without a before."""
    scores, baseline = metrics.get("scores") or {}, metrics.get("baseline") or {}
    found = {
        source: Scored(values.get(SCORE), (baseline.get(source) or {}).get(SCORE), size_bytes=values.get("bytes"))
        for source, values in scores.items()
        if isinstance(values, Mapping)
    }
    for key, value in scores.items():
        if (source := validated(key)) is not None and not isinstance(value, Mapping):
            found[source] = Scored(value, is_foreign=True)
    return dict(sorted(found.items(), key=lambda each: (each[0] != NEW, each[0])))


def known_score(scores: Mapping[str, Scored]) -> Scored:
    """The mean over the texts that the model knew before."""
    known = [each for source, each in scores.items() if source != NEW and each.value is not None]
    if not known:
        return Scored(None)
    before = [each.before for each in known if each.before is not None]
    mean = fmean(each.value for each in known if each.value is not None)
    before_mean = fmean(before) if len(before) == len(known) else None
    return Scored(mean, before_mean, any(each.is_foreign for each in known))


def validated(key: str) -> str | None:
    """The source whose bits per byte this curve has."""
    is_one = key.startswith(_VALIDATION) and key.endswith(f"_{SCORE}")
    return key.removeprefix(_VALIDATION).removesuffix(f"_{SCORE}") if is_one else None


def data_words(summary: Mapping[str, Any]) -> str:
    """`version 3, stdlib, packages`: what it learned from."""
    version = summary.get("dataset_version")
    parts = [f"version {version}"] if version is not None else []
    return ", ".join([*parts, *summary.get("corpora", ())]) or words.NOTHING


def network_words(summary: Mapping[str, Any]) -> str:
    """`mini, 5.2M`, as far as it is known."""
    count = summary["metrics"].get("parameters")
    parts = [summary.get("preset"), words.count(count) if count else None]
    return ", ".join(part for part in parts if part) or words.NOTHING


def progress_words(summary: Mapping[str, Any]) -> str:
    """`train, 43 %, 25 s left` while it runs; nothing at any other time."""
    if summary["state"] != "running":
        return ""
    progress = summary["progress"]
    parts = ["stopping" if progress.get("stopping") else summary["phase"] or "begins"]
    if summary["phase"] == "train" and (share := progress.get("share")) is not None:
        parts.append(f"{share:.0%}")
        if progress.get("eta_s") and not progress.get("stopping"):
            parts.append(f"{words.duration(progress['eta_s'])} left")
    return ", ".join(parts)


def share_of(summary: Mapping[str, Any]) -> float | None:
    """Of the training budget, from 0 to 1; None where it does not run, or does not train yet."""
    if summary["state"] != "running":
        return None
    if summary["phase"] in ("export", "evaluate"):
        return 1.0
    share = summary["progress"].get("share")
    return min(max(float(share), 0.0), 1.0) if share is not None and summary["phase"] == "train" else None


def marks_of(deployments: Mapping[str, Any] | None) -> dict[int, str]:
    """Experiment → active, shadow or canary."""
    places = {role: (deployments or {}).get(role) for role in reversed(ROLES)}
    return {place["experiment_id"]: role for role, place in places.items() if place}


def plain(value: Any) -> str:
    """A value of a plan, as it is read."""
    if value is None or value == {} or value == []:
        return words.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class PlanRow:
    """A value of a plan, and the parent's."""

    group: str
    name: str
    value: str
    is_other: bool = False
    before: str = ""


_ASKED, _RECIPE, _DATA = "Asked for", "Recipe", "Data"


def plan_rows(plan: Mapping[str, Any], differing: Mapping[str, Sequence[Any]]) -> tuple[PlanRow, ...]:
    """What was asked, the recipe and the data; `differing` has parent's and own where they are not the same."""
    rows = []
    for key, value in flattened(plan).items():
        head, _, rest = key.partition(".")
        group = {"wish": _ASKED, "training": _RECIPE}.get(head, _DATA)
        pair = differing.get(key)
        if value in (None, {}, []) and pair is None:
            continue  # nobody asked for it
        name = (rest if group != _DATA else key).replace("_", " ").replace(".", ", ")
        rows.append(PlanRow(group, name, plain(value), pair is not None, plain(pair[0]) if pair is not None else ""))
    return tuple(sorted(rows, key=lambda row: (_ASKED, _RECIPE, _DATA).index(row.group)))


def figures_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """What is looked at first: of a training that goes on, how far it is; of one that has ended, what it took."""
    progress, metrics, state = summary["progress"], summary["metrics"], summary["state"]
    if state in FINISHED:
        found = {
            "Took": words.duration(metrics.get("seconds")),
            "Steps": words.number(metrics.get("steps")),
            "Tokens": words.count(metrics.get("tokens")),
            "Tokens per second": words.count(metrics.get("tokens_per_second")),
            "Parameters": words.count(metrics.get("parameters")),
            "Peak memory": words.size(metrics["peak_memory_mib"] * 2**20 if "peak_memory_mib" in metrics else None),
        }
        return {name: value for name, value in found.items() if value != words.NOTHING}
    is_training = state == "running" and summary["phase"] == "train"
    return {
        "Phase": "stopping" if progress.get("stopping") else summary["phase"] or state,
        "Left": words.duration(progress.get("eta_s")) if is_training else words.NOTHING,
        "Step": words.number(progress.get("step")),
        "Tokens": words.count(progress.get("tokens")),
        "Tokens per second": words.count(progress.get("tokens_per_second")),
        "Training loss": words.score(progress.get("train_loss")),
    }


def samples_in(markdown: str) -> list[str]:
    """The texts between the fences."""
    pieces = f"\n{markdown}".split("\n```\n")
    return [piece for piece in pieces[1::2] if piece.strip()]


def best_of(row: Sequence[Any]) -> set[int]:
    """Where the lowest number stands, if they differ at all."""
    numbers = [value for value in row if isinstance(value, int | float)]
    if len(numbers) < 2 or min(numbers) == max(numbers):
        return set()
    return {place for place, value in enumerate(row) if value == min(numbers)}
