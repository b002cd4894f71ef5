"""Deployments as the page tells of them: what became of one, how long a watch lasts, points, spans and scores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ml_service.frontend.api import as_sentence
from ml_service.frontend.deployments.figures import (
    Course,
    Score,
    Trial,
    errors_and_speed,
    scores_beside,
    spans_of,
    trials_of,
)
from ml_service.frontend.deployments.history import place_of
from ml_service.frontend.deployments.now import in_words
from ml_service.frontend.deployments.words import consequences, done, how, lasted, outcome, pace, since, standing

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIMITS = {"seconds": 60, "longest_s": 600, "requests": 100, "error_ratio": 0.05, "p95_factor": 2.0}


def row(id_: int = 1, **changes: Any) -> dict[str, Any]:
    made = {
        "id": id_, "generation": id_, "experiment_id": id_, "experiment": f"model-{id_}", "artifact_sha256": str(id_),
        "state": "active", "strategy": "replace", "percent": None, "reason": "", "actor": "somebody",
        "created": at(0), "activated": at(0), "retired": None, "outcome": {}, "error": None,
    }  # fmt: skip
    return made | changes


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def slot(**changes: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("active", "previous", "shadow", "canary", "agreement"))
    return nothing | {"watched": [], "limits": LIMITS} | changes


def watch(id_: int, fault: str | None = None, **figures: Any) -> dict[str, Any]:
    seen = {"requests": 0, "errors": 0, "error_ratio": 0.0, "error_ratio_before": 0.0, "compared": 0}
    return {"deployment_id": id_, "fault": fault, "figures": seen | {"p95_ms": None, "p95_before_ms": None} | figures}


def test_it_looks_more_often_while_something_is_tried() -> None:
    assert pace(slot(active=row())) > pace(slot(active=row(), watched=[watch(1)]))
    assert pace(slot(active=row(), shadow=row(2))) == pace(slot(active=row(), canary=row(2)))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "answers"),
        ({"state": "canary", "strategy": "canary"}, "is tried"),
        ({"state": "retired", "retired": at(9)}, "replaced"),
        ({"state": "retired", "strategy": "shadow", "retired": at(9)}, "ended"),
        ({"state": "failed", "generation": None, "error": "damaged"}, "refused"),
        ({"state": "failed", "error": "3 of the latest 4 requests failed"}, "taken back"),
    ],
)
def test_what_became_of_a_deployment_is_a_word(changes: dict[str, Any], word: str) -> None:
    told = outcome(row(**changes), [])
    assert told.word == word
    assert (told.kind == "bad") == (word in ("refused", "taken back"))
    assert told.sentence == (as_sentence(changes["error"]) if "error" in changes else "")


def test_a_trial_that_answers_all_from_then_on_was_promoted() -> None:
    canary = row(1, state="retired", strategy="canary", percent=50, retired=at(100), artifact_sha256="same")
    later = row(2, artifact_sha256="same", activated=at(100.01))
    assert outcome(canary, [later, canary]).word == "promoted"
    assert outcome(canary, [row(2, artifact_sha256="same", activated=at(200)), canary]).word == "ended"
    assert outcome(canary, [row(2, artifact_sha256="other", activated=at(100)), canary]).word == "ended"


def test_what_went_back_by_itself_is_marked() -> None:
    assert how(row(strategy="rollback", actor="watch")) == "automatic rollback"
    assert how(row(strategy="rollback")) == "rollback"
    assert how(row(strategy="canary", percent=12.5)) == "canary, 12.5 %"


def test_a_time_that_still_runs_is_told_by_minutes() -> None:
    assert lasted(row(), NOON + timedelta(seconds=59)) == "under 1 min so far"
    assert lasted(row(), NOON + timedelta(minutes=3, seconds=20)) == "3 min so far"
    assert lasted(row(retired=at(200)), NOON) == "3 min 20 s"
    assert lasted(row(activated=None), NOON) == "—"
    assert since(NOON, NOON + timedelta(days=2, hours=3)) == "2 d 3 h"


def test_a_watch_says_how_long_it_goes_on() -> None:
    def told(seconds: float, requests: int = 0, **changes: Any) -> str:
        watched = watch(1, requests=requests)
        return standing(watched, row(**changes), LIMITS, NOON + timedelta(seconds=seconds)).sentence

    assert told(18).startswith("Watched for 45 s more at least. It goes back by itself where 5 % more")
    assert told(70, 37).startswith("Watched until it has had 100 requests (37 by now), for 9 min more at most.")
    assert told(18, strategy="canary").startswith("Watched until it ends.")
    broken = standing(watch(1, "4 of the latest 9 requests failed"), row(), LIMITS, NOON)
    assert (broken.word, broken.kind) == ("fault", "bad")
    assert broken.sentence == "4 of the latest 9 requests failed. It is taken back."


def test_what_one_agrees_to_names_what_ends() -> None:
    told = slot(active=row(1), canary=row(2, strategy="canary", percent=10))
    replaced = " ".join(consequences("replace", "new", told, 0))
    assert "in place of model-1 (experiment 1)" in replaced
    assert "The canary, model-2 (experiment 2), ends with that." in replaced
    assert consequences("canary", "new", told, 25)[1:] == [
        "new answers 25 % of the requests.", "It takes the place of the canary, model-2 (experiment 2)."
    ]  # fmt: skip
    assert len(consequences("shadow", "new", told, 25)) == 2
    assert "nothing does yet" in consequences("replace", "new", slot(), 0)[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "answers now"),
        ({"strategy": "rollback"}, "answers again"),
        ({"state": "shadow", "strategy": "shadow"}, "is the shadow now"),
        ({"state": "canary", "strategy": "canary", "percent": 10.0}, "answers 10 % of the requests now"),
        ({"state": "retired"}, "is retired"),
    ],
)
def test_a_deployment_says_what_it_has_come_to(changes: dict[str, Any], said: str) -> None:
    assert (
        done(row(**changes) | {"replicas": {"loaded": 1, "of": 1}}) == f"model-1 (experiment 1) {said}: generation 1."
    )
    behind = done(row(**changes) | {"replicas": {"loaded": 1, "of": 3}})
    assert behind.endswith("1 of 3 processes have it, the others follow within seconds.")


def test_trials_are_found_with_what_is_known_of_them() -> None:
    canary = row(2, strategy="canary", percent=10)
    found = trials_of(slot(active=row(1), canary=canary, shadow=row(3), watched=[watch(1), watch(2)]))
    assert [(trial.role, trial.watch is not None) for trial in found] == [
        ("canary", True), ("shadow", False), ("active", True)
    ]  # fmt: skip
    assert trials_of(slot(active=row(1), watched=[watch(9)])) == []


def test_figures_of_old_and_new_stand_beside_each_other() -> None:
    seen = watch(1, requests=10, error_ratio=0.25, error_ratio_before=0.5, p95_ms=2.0, p95_before_ms=8.0)
    errors, speed = errors_and_speed(Trial("active", row(), seen))
    assert (errors.told(errors.old), errors.told(errors.new)) == ("50.0 %", "25.0 %")
    assert (speed.width(speed.old), speed.width(speed.new)) == (100.0, 25.0)
    errors, speed = errors_and_speed(Trial("active", row(), watch(1)))
    assert errors.new is None  # it has answered nobody yet: that is not the same as no errors
    assert (speed.told(speed.new), speed.width(speed.new)) == ("—", 0.0)


def test_a_course_keeps_few_points_and_none_that_tell_nothing() -> None:
    course = Course()
    assert not course.note(0, None, None)
    assert course.note(1, 1.0, 2.0)
    assert not course.note(3, 1.0, 2.0)
    assert course.note(12, 1.0, 2.0)  # so that its line goes on
    for second in range(20, 5000):
        course.note(second, float(second), None)
    assert len(course.times_ms) <= 240
    assert course.times_ms[0] == 1000
    assert course.times_ms[-1] == 4_999_000
    assert course.lines("a", "b")["a"][-1] == (4_999_000, 4999.0)


def test_spans_go_on_until_now_and_lie_within_the_time_that_is_shown() -> None:
    now = NOON + timedelta(seconds=100)
    refused = row(3, activated=None, generation=None)
    spans = spans_of([refused, row(2, activated=at(50)), row(1, retired=at(50))], now)
    assert [(span.row["id"], span.lane) for span in spans] == [(1, "answered"), (2, "answered")]
    assert [place_of(span, NOON, now) for span in spans] == [(0.0, 50.0), (50.0, 50.0)]
    assert place_of(spans[0], NOON + timedelta(seconds=25), now) == (0.0, 33.333)
    assert spans[1].told == "model-2 (experiment 2), replace: from 2026-05-01 12:00:50 UTC, 50 s"


def test_scores_stand_beside_those_that_were_measured_on_the_same() -> None:
    def experiment(id_: int, scores: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"experiment_id": id_, "parent_id": 1, "metrics": {"scores": scores, **more}}

    parent = experiment(1, {"validation_bits_per_byte": 1.0})
    child = experiment(
        2,
        {"new": {"bits_per_byte": 0.9, "loss": 2.0, "tokens": 5}, "accuracy": 0.5},
        baseline={"new": {"bits_per_byte": 1.0}},
    )
    assert scores_beside(child, parent) == [Score("new: bits_per_byte", 0.9, 1.0), Score("accuracy", 0.5, None)]
    assert [score.active for score in scores_beside(child, experiment(7, {}))] == [None, None]  # of another parent
    assert [score.active for score in scores_beside(child, None)] == [None, None]


@pytest.mark.parametrize(
    ("name", "chosen", "active", "change"),
    [
        ("new: bits_per_byte", 0.9, 1.0, "10.0 % better"),
        ("accuracy", 0.9, 1.0, "10.0 % worse"),
        ("colour", 1.1, 1.0, "10.0 % more"),
        ("loss", 1.0, 1.0001, "the same"),
        ("loss", 1.0, None, ""),
    ],
)
def test_a_change_is_told_in_words(name: str, chosen: float, active: float | None, change: str) -> None:
    assert Score(name, chosen, active).change == change


def test_processes_are_counted() -> None:
    assert in_words(1, 0, 3) == "The one that answers has generation 3."
    assert in_words(1, 1, 3) == "The one that answers is behind."
    assert in_words(4, 1, 3) == "3 of 4 have generation 3."
    assert "No process" in in_words(0, 0, 3)


def test_a_sentence_leaves_names_of_files_alone() -> None:
    assert as_sentence("model.onnx is damaged") == "model.onnx is damaged."
    assert as_sentence("nothing is there!") == "Nothing is there!"
