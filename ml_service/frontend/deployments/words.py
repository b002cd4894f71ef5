"""Deployments in words: how one was made, what became of it, what follows from the next one; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_service.frontend import words
from ml_service.frontend.api import as_sentence

Row = Mapping[str, Any]
"""A deployment, as the service tells of it."""
STRATEGIES = {
    "replace": "It answers everybody from now on; requests that run end on the model that they began on.",
    "shadow": "It answers nobody. It is asked in the background what the active model has answered, and compared.",
    "canary": "It answers a share of the requests, the same request ids always, and is watched to its end.",
}
_QUICK_S, _QUIET_S = 2.0, 5.0
_WATCH = "watch"
"""The actor of what goes back by itself, and the key of its figures in an outcome."""
_TOGETHER_S = 2.0
"""What one transaction ends and begins lies closer than this."""


@dataclass(frozen=True)
class Told:
    """A state in a word, its kind as a badge has it, and a sentence."""

    word: str
    kind: str
    sentence: str = ""


def pace(data: Row) -> float:
    """How often to look, in seconds: something is tried or under watch, or nothing is."""
    return _QUICK_S if data["watched"] or data["shadow"] or data["canary"] else _QUIET_S


def name_of(row: Row) -> str:
    """The experiment, as it is called here."""
    return f"{row['experiment']} (experiment {row['experiment_id']})"


def share(row: Row) -> str:
    """Of the requests, for a canary: `12.5 %`."""
    return f"{row['percent']:g} %"


def how(row: Row) -> str:
    """Which kind of deployment it is."""
    if row["strategy"] == "canary":
        return f"canary, {share(row)}"
    if row["strategy"] == "rollback" and row["actor"] == _WATCH:
        return "automatic rollback"
    return str(row["strategy"])


def outcome(row: Row, history: Sequence[Row]) -> Told:
    """What became of it, by now."""
    is_trial = row["strategy"] in ("shadow", "canary")
    match row["state"]:
        case "active":
            return Told("answers", "good", _stood(row))
        case "shadow" | "canary":
            return Told("is tried", "busy")
        case "failed" if row["generation"] is None:
            return Told("refused", "bad", as_sentence(row["error"] or ""))
        case "failed":
            return Told("taken back", "bad", as_sentence(row["error"] or ""))
    if is_trial:
        return Told("promoted", "good") if _is_promoted(row, history) else Told("ended", "")
    return Told("replaced", "", _stood(row))


def lasted(row: Row, now: datetime) -> str:
    """How long it answered or was tried; by whole minutes while it still does, so that nothing flickers."""
    began, ended = words.moment(row["activated"]), words.moment(row["retired"])
    if began is None:
        return words.NOTHING
    if ended is not None:
        return words.duration((ended - began).total_seconds())
    return f"{since(began, now)} so far"


def since(began: datetime, now: datetime) -> str:
    """A time that still runs."""
    minutes = int((now - began).total_seconds() // 60)
    if minutes < 1:
        return "under 1 min"
    days, rest = divmod(minutes, 24 * 60)
    return f"{days} d {rest // 60} h" if days else words.duration(minutes * 60)


def standing(watch: Row, row: Row, limits: Row, now: datetime) -> Told:
    """The watch's verdict by now, and how long it goes on."""
    if watch["fault"]:
        return Told("fault", "bad", f"{as_sentence(watch['fault'])} It is taken back.")
    back = (
        f"It goes back by itself where {100 * limits['error_ratio']:g} % more of its requests fail than of the model "
        f"before, or its tokens take {limits['p95_factor']:g} times as long under the same load."
    )
    return Told("no fault", "good", f"{_how_long(watch, row, limits, now)} {back}")


def _how_long(watch: Row, row: Row, limits: Row, now: datetime) -> str:
    if row["strategy"] == "canary":
        return "Watched until it ends."
    began, requests = words.moment(row["activated"]) or now, watch["figures"]["requests"]
    elapsed_s = (now - began).total_seconds()
    if elapsed_s < limits["seconds"]:
        return f"Watched for {_about(limits['seconds'] - elapsed_s)} more at least."
    return (
        f"Watched until it has had {limits['requests']} requests ({requests} by now), "
        f"for {_about(limits['longest_s'] - elapsed_s)} more at most."
    )


def _about(seconds: float) -> str:
    step = 5 if seconds < 60 else 60
    return words.duration(max(step, math.ceil(seconds / step) * step))


def consequences(strategy: str, chosen: str, data: Row, percents: float) -> list[str]:
    """What one agrees to, in sentences."""
    active = data["active"]
    if active is None:
        return [f"{chosen} answers everybody from now on: nothing does yet."]
    now, ends = name_of(active), [each for each in ("shadow", "canary") if data[each] is not None]
    if strategy == "replace":
        told = [f"{chosen} answers everybody from now on, in place of {now}."]
        told += [f"The {each}, {name_of(data[each])}, ends with that." for each in ends]
        if data["limits"]["seconds"]:
            told.append(f"It is watched for {words.duration(data['limits']['seconds'])} at least, and may go back.")
        return [*told, "Roll back leads to what answers now."]
    told = [f"{now} stays the active model."]
    told.append(
        f"{chosen} answers {percents:g} % of the requests."
        if strategy == "canary"
        else f"{chosen} is asked the same in the background, and answers nobody."
    )
    return told + [f"It takes the place of the {each}, {name_of(data[each])}." for each in ends if each == strategy]


def done(row: Row) -> str:
    """What a deployment has come to, in a sentence."""
    loaded, of = row["replicas"]["loaded"], row["replicas"]["of"]
    behind = "" if loaded == of else f" {loaded} of {of} processes have it, the others follow within seconds."
    return f"{name_of(row)} {_said(row)}: generation {row['generation']}.{behind}"


def _said(row: Row) -> str:
    match row["state"]:
        case "active":
            return "answers again" if row["strategy"] == "rollback" else "answers now"
        case "shadow":
            return "is the shadow now"
        case "canary":
            return f"answers {share(row)} of the requests now"
    return f"is {row['state']}"  # asked for again under a key whose deployment is over by now


def _is_promoted(row: Row, history: Sequence[Row]) -> bool:
    ended = words.moment(row["retired"])
    return ended is not None and any(
        each["id"] > row["id"]
        and each["strategy"] == "replace"
        and each["artifact_sha256"] == row["artifact_sha256"]
        and abs((words.moment(each["activated"]) or datetime.min.replace(tzinfo=UTC)) - ended)
        < timedelta(seconds=_TOGETHER_S)
        for each in history
    )


def _stood(row: Row) -> str:
    figures = row["outcome"].get(_WATCH)
    if figures is None:
        return ""
    return f"Stood the watch: {figures['requests']} requests, {figures['errors']} failed."
