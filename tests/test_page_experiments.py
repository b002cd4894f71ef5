"""What the pages of experiments work out by themselves: scores, plans, wishes, the graph of a lineage, who competes."""

from __future__ import annotations

from typing import Any

import pytest

from ml_service.frontend.experiments.charts import placed
from ml_service.frontend.experiments.comparison import differing, numbers_in, score_rows
from ml_service.frontend.experiments.curves import after, rounded
from ml_service.frontend.experiments.dialog import at_fields, wish_of
from ml_service.frontend.experiments.facts import (
    Scored,
    best_of,
    data_words,
    figures_of,
    known_score,
    marks_of,
    network_words,
    plain,
    plan_rows,
    progress_words,
    samples_in,
    scores_of,
    share_of,
)
from ml_service.frontend.experiments.lineage import graph_of, shortened


def scored(**values: float) -> dict[str, Any]:
    return {source: {"bits_per_byte": value, "loss": 2 * value, "bytes": 500} for source, value in values.items()}


def summary(number: int = 2, **changes: Any) -> dict[str, Any]:
    metrics = {
        "scores": scored(new=2.5, stdlib=0.76, packages=1.0),
        "baseline": scored(new=3.0, stdlib=0.75, packages=1.0),
    }
    return {
        "experiment_id": number, "name": f"number {number}", "kind": "retrain", "state": "succeeded", "phase": None,
        "parent_id": 1, "progress": {}, "metrics": metrics, "dataset_version": 3, "corpora": ["stdlib"],
        "preset": "mini",
    } | changes  # fmt: skip


IMPORTED = summary(
    1, kind="import", parent_id=None, dataset_version=None, corpora=[], preset=None,
    metrics={
        "scores": {"validation_stdlib_bits_per_byte": 0.9, "validation_stdlib_loss": 2.2}, "parameters": 5_245_696,
    },
)  # fmt: skip


def test_a_score_stands_beside_that_of_the_model_before_and_the_new_text_first() -> None:
    scores = scores_of(summary()["metrics"])
    assert list(scores) == ["new", "packages", "stdlib"]
    assert (scores["new"].change, scores["new"].kind) == ("-0.500", "good")
    assert (scores["stdlib"].change, scores["stdlib"].kind) == ("+0.010", "bad")
    assert (scores["packages"].change, scores["packages"].kind) == ("", "")
    known = known_score(scores)
    assert (known.value, known.before) == (pytest.approx(0.88), pytest.approx(0.875))
    assert known_score({}) == Scored(None)


def test_a_score_from_elsewhere_says_so() -> None:
    scores = scores_of(IMPORTED["metrics"])
    assert scores == {"stdlib": Scored(0.9, is_foreign=True)}
    assert "other documents" in scores["stdlib"].account
    assert known_score(scores).is_foreign


def test_how_far_it_is_is_said_in_words_only_while_it_runs() -> None:
    running = summary(state="running", phase="train", progress={"share": 0.43, "eta_s": 25.0, "step": 7}, metrics={})
    assert progress_words(running) == "train, 43%, 25 s left"
    assert share_of(running) == 0.43
    assert progress_words(running | {"progress": {"share": 0.43, "eta_s": 25.0, "stopping": True}}) == "stopping, 43%"
    assert (progress_words(summary()), share_of(summary())) == ("", None)
    assert share_of(running | {"phase": "extract"}) is None
    assert share_of(running | {"phase": "evaluate"}) == 1.0
    assert figures_of(running)["Left"] == "25 s"
    assert figures_of(IMPORTED) == {"Parameters": "5.2M"}


def test_data_and_size_are_said_as_far_as_they_are_known() -> None:
    assert data_words(summary()) == "version 3, stdlib"
    assert data_words(IMPORTED) == "—"
    assert network_words(summary()) == "mini"
    assert network_words(IMPORTED) == "5.2M"


def test_who_answers_is_marked() -> None:
    deployments = {"active": {"experiment_id": 1}, "shadow": None, "canary": {"experiment_id": 4}}
    assert marks_of(deployments) == {1: "active", 4: "canary"}
    assert marks_of(None) == {}


def test_a_plan_marks_what_differs_from_the_parents_and_leaves_out_what_nobody_asked_for() -> None:
    plan = {
        "wish": {"replay": 0.6, "deploy_if": None, "hyperparameters": {}, "budget": {"seconds": 40.0, "steps": None}},
        "training": {"learning_rate": 2e-4, "mixture": {"new": 0.4}},
        "version": 3,
    }
    rows = plan_rows(plan, {"wish.replay": [0.5, 0.6], "version": [2, 3]})
    told = [(row.group, row.name, row.value, row.before) for row in rows]
    assert told == [
        ("Asked for", "replay", "0.6", "0.5"),
        ("Asked for", "budget, seconds", "40", ""),
        ("Recipe", "learning rate", "0.0002", ""),
        ("Recipe", "mixture, new", "0.4", ""),
        ("Data", "version", "3", "2"),
    ]
    assert plan_rows({}, {}) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "—"), ({}, "—"), (True, "yes"), (1e-4, "0.0001"), (16384, "16,384"), (["a", "b"], "a, b")],
)
def test_a_value_is_written_as_it_is_read(value: object, words: str) -> None:
    assert plain(value) == words


def test_samples_are_the_texts_between_the_fences() -> None:
    assert samples_in("# What it continues\n\n```\nimport os\nx = 1\n```\n\n```\ndef a():\n```\n") == [
        "import os\nx = 1",
        "def a():",
    ]
    assert samples_in("") == []


def test_the_lowest_is_the_best_unless_all_are_alike() -> None:
    assert best_of([2.0, None, 1.5, 1.5]) == {2, 3}
    assert best_of([2.0, 2.0]) == set()
    assert best_of([2.0, None]) == set()


def test_only_points_that_are_new_are_sent() -> None:
    columns = {"step": [1, 5, 9], "tokens": [10, 50, 90], "seconds": [0.1, 0.5, 0.9], "value": [3.0, 2.0, None]}
    assert after(columns, 1)["step"] == [5, 9]
    assert after(columns, 9)["value"] == []
    assert after(columns, -1) == columns
    assert rounded(3.14159265) == 3.14159
    assert rounded(None) is None


def test_each_curve_has_its_chart() -> None:
    keys = [
        "train_loss",
        "validation_new_bits_per_byte",
        "validation_new_loss",
        "validation_stdlib_bits_per_byte",
        "mfu",
    ]
    charts = placed({key: {"step": [1]} for key in keys})
    assert {chart: list(lines) for chart, lines in charts.items()} == {
        "train_loss": ["training loss"], "new": ["new text"], "known": ["stdlib"],
    }  # fmt: skip


WISHED = {
    "experiment_name": " with notes ", "start_from": "3", "dataset_version": 0, "budget": 40.0, "replay": 0.6,
    "precision": "int8", "strategy": "single", "seed": 0.0, "hyperparameters": "", "deploy_if.better_by": 0.01,
    "deploy_if.old_worse_by": 0.02,
}  # fmt: skip


def test_a_wish_has_what_was_filled_in() -> None:
    wish = wish_of(WISHED, "steps", has_gate=False)
    assert wish == {
        "experiment_name": "with notes", "start_from": 3, "budget": {"steps": 40}, "replay": 0.6, "precision": "int8",
        "strategy": "single", "seed": 0, "hyperparameters": {},
    }  # fmt: skip
    gated = wish_of(
        WISHED | {"start_from": "active", "experiment_name": "", "dataset_version": 2}, "seconds", has_gate=True
    )
    assert gated["deploy_if"] == {"better_by": 0.01, "old_worse_by": 0.02}
    assert (gated["start_from"], gated["dataset_version"], gated["budget"]) == ("active", 2, {"seconds": 40.0})
    assert "experiment_name" not in gated


@pytest.mark.parametrize("typed", ["{", "[1]", "nothing"])
def test_hyperparameters_that_are_no_object_are_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="This is"):
        wish_of(WISHED | {"hyperparameters": typed}, "steps", has_gate=False)


def test_what_is_wrong_is_said_at_its_field() -> None:
    errors = {
        "budget.seconds": "too few", "hyperparameters.window": "too short", "hyperparameters.foo": "unknown",
        "start_from.constrained-int": "no number", "body": "strange", "deploy_if.better_by": "negative",
    }  # fmt: skip
    placed_errors, elsewhere = at_fields(errors, WISHED)
    assert placed_errors == {
        "budget": "too few", "hyperparameters": "window: too short; foo: unknown", "start_from": "no number",
        "deploy_if.better_by": "negative",
    }  # fmt: skip
    assert elsewhere == ["body: strange"]


def account(parents: int, deployments: int, corpora: tuple[str, ...] = ("stdlib",)) -> dict[str, Any]:
    return {
        "name": "this", "experiment_id": 9,
        "lineage": {
            "dataset": {"version": 3, "fingerprint": "0123456789abcdef"}, "corpora": list(corpora),
            "parents": [{"experiment_id": 8 - at, "name": f"parent {at}", "kind": "retrain"} for at in range(parents)],
            "deployments": [
                {"generation": at, "state": "active" if at == deployments - 1 else "retired", "strategy": "replace"}
                for at in range(deployments)
            ],
        },
    }  # fmt: skip


def test_the_lineage_goes_from_data_and_parents_over_the_experiment_to_its_deployments() -> None:
    graph = graph_of(account(2, 1))
    told = {(start.title, end.title) for start, end in graph.edges}
    assert told == {
        ("parent 1", "parent 0"), ("parent 0", "this"), ("Data version 3", "this"), ("stdlib", "this"),
        ("this", "Deployment 0"),
    }  # fmt: skip
    assert all(start.column < end.column for start, end in graph.edges)
    assert len({(node.x, node.y) for node in graph.nodes}) == len(graph.nodes), "no box lies on another"


def test_a_long_lineage_is_told_in_short() -> None:
    graph = graph_of(account(8, 9))
    assert [node.title for node in graph.nodes if node.column == 0] == ["5 before"]
    assert [node.title for node in graph.nodes if node.column == 5][-1] == "6 more"
    alone = graph_of(
        {"name": "x", "experiment_id": 1, "lineage": account(0, 0)["lineage"] | {"dataset": None, "corpora": []}}
    )
    assert [node.title for node in alone.nodes] == ["x"]
    assert shortened("a name that is long", 10) == "a name th…"


def test_only_scores_on_the_same_text_compete() -> None:
    second = summary(3, metrics={"scores": scored(new=2.4, stdlib=0.77)})
    rows = {row.source: row for row in score_rows([summary(), second])}
    assert (rows["new"].best, rows["stdlib"].best) == ({1}, {0})
    second["metrics"]["scores"]["new"]["bytes"] = 99
    rows = {row.source: row for row in score_rows([summary(), second])}
    assert (rows["new"].is_same_text, rows["new"].best) == (False, set())
    assert rows["stdlib"].best == {0}


def test_a_bundle_from_outside_is_compared_by_what_it_had_on_its_childs_texts() -> None:
    rows = {row.source: row for row in score_rows([IMPORTED, summary()])}
    assert [score.value for score in rows["new"].scores] == [3.0, 2.5]
    assert (rows["new"].best, rows["stdlib"].best) == ({1}, {0})
    alone = {row.source: row for row in score_rows([IMPORTED, summary(parent_id=7)])}
    assert alone["stdlib"].best == set(), "it was measured on other documents"


def test_plans_differ_where_those_that_were_trained_here_do() -> None:
    plan = {
        "training.learning_rate": [None, 1e-4, 2e-4], "training.window": [None, 64, 64], "wish.seed": [None, 0, 1],
        "wish.experiment_name": [None, "a", "b"], "training.seconds": [None, 1, 2], "wish.budget.seconds": [None, 1, 2],
    }  # fmt: skip
    rows = differing([IMPORTED, summary(), summary(3)], plan)
    assert rows == {"learning_rate": ["0.0001", "0.0002"], "seed": ["0", "1"], "budget.seconds": ["1", "2"]}


def test_numbers_are_read_from_an_address() -> None:
    assert numbers_in("3,7,3, 4 ,x,-1,0") == [3, 7, 4]
    assert numbers_in("") == []
