"""What is tried beside the active model, over HTTP: shadow, canary, and the watch that takes a faulty one back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.common.bundle import load_manifest
from ml_service.common.errors import ModelFailure
from ml_service.common.settings import Settings
from ml_service.data.experiments import Experiments
from tests.http_world import FP32, INT8, World, opened_world
from tests.test_http import PROMPT


@pytest.fixture
def world(settings: Settings, bundle_fp32: Path) -> Iterator[World]:
    with opened_world(settings, bundle_fp32) as world:
        yield world


def test_a_shadow_answers_nobody_and_tells_how_far_it_agrees(world: World) -> None:
    done = world.deploy(FP32, strategy="shadow")
    assert (done["state"], done["replicas"]) == ("shadow", {"loaded": 1, "of": 1})
    for number in range(4):
        assert world.ask(temperature=1.0 if number % 2 else 0.0)["model"]["generation"] == 1
    world.until(lambda: world.overview()["agreement"]["compared"] == 4)
    told = world.overview()["agreement"]
    assert told["same_ratio"] == told["same"] / 4
    assert told["same_ratio"] <= told["common_ratio"] <= 1
    assert told["active_tokens"] > 0
    assert told["shadow_p95_ms"] > 0
    assert told["dropped"] == told["failed"] == told["skipped"] == 0
    compared = sum(world.metric("shadow_requests_total", result=result) for result in ("same", "different"))
    assert compared == 4
    assert world.metric("requests_finished_total", finish_reason="length") <= 4
    names = [model["id"] for model in world.client.get("/v1/models").json()["data"]]
    assert names == ["active", "shadow", "small", "1", "2"]
    ended = world.client.delete("/deploy/shadow").json()
    assert (ended["state"], world.overview()["agreement"]) == ("retired", None)
    assert [model["id"] for model in world.client.get("/v1/models").json()["data"]] == ["active", "small", "1"]


def test_a_shadow_of_the_same_model_agrees_in_every_token(world: World, bundle: Path, tmp_path: Path) -> None:
    manifest = load_manifest(bundle)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "manifest.json").write_text(manifest.model_dump_json(indent=3))  # known by another hash
    twin = Experiments(world.database, world.settings.store).import_bundle(copy, "tests").id
    world.deploy(twin, strategy="shadow")
    for _ in range(3):
        world.ask(temperature=1.3)  # the seed is drawn anew, and told to the shadow
    body = {"model": "active", "prompt": "def ", "max_tokens": 8, "temperature": 1}
    world.client.post("/v1/completions", json=body).raise_for_status()
    world.client.post("/forward", json=PROMPT | {"stream": True, "temperature": 1.0}).raise_for_status()
    world.until(lambda: world.overview()["agreement"]["compared"] == 5)
    assert world.overview()["agreement"]["same_ratio"] == 1.0


def test_a_canary_answers_its_share_and_the_same_client_always_alike(world: World) -> None:
    done = world.deploy(FP32, strategy="canary")
    assert (done["state"], done["percent"]) == ("canary", 10)
    world.deploy(FP32, strategy="canary", percent=50)
    of = {str(number): world.ask(str(number), max_new_tokens=1)["model"]["experiment_id"] for number in range(60)}
    assert 15 <= list(of.values()).count(FP32) <= 45
    for number in list(of)[:15]:
        assert world.ask(number, max_new_tokens=1)["model"]["experiment_id"] == of[number]
    body = {"prompt": "def ", "max_tokens": 1}
    for name in ("canary", str(FP32)):
        world.client.post("/v1/completions", json=body | {"model": name}).raise_for_status()
    missing = world.client.post("/v1/completions", json=body | {"model": "shadow"})
    assert missing.status_code == 404
    told = world.overview()
    (watched,) = told["watched"]
    assert told["limits"] == {
        "seconds": 60, "longest_s": 600, "requests": 5, "error_ratio": 0.05, "p95_factor": 2.0
    }  # fmt: skip
    assert told["process"] in [replica["id"] for replica in told["replicas"]]
    assert watched["fault"] is None
    assert watched["figures"]["requests"] >= 15
    promoted = world.app.state.live.handles.canary.engine
    world.deploy(FP32)
    assert world.app.state.live.current.engine is promoted  # open and proved already
    assert {world.ask(number, max_new_tokens=1)["model"]["experiment_id"] for number in list(of)[:9]} == {FP32}


@pytest.mark.parametrize("strategy", ["replace", "canary"])
def test_a_model_that_fails_goes_back_by_itself(world: World, strategy: str) -> None:
    for _ in range(4):
        world.ask()
    percent = {"percent": 100} if strategy == "canary" else {}
    faulty = world.deploy(FP32, strategy=strategy, **percent)
    handles = world.app.state.live.handles

    def fail(_: object) -> object:
        raise ModelFailure("the model gave logits that are not finite")

    (handles.canary or handles.active).engine._loop._session.run = fail

    def is_back() -> bool:
        return world.client.post("/forward", json=PROMPT).status_code == 200

    world.until(is_back)
    assert world.answering()[0] == INT8
    told = world.overview()
    (row,) = [row for row in told["history"] if row["id"] == faulty["id"]]
    assert row["state"] == "failed"
    assert "requests failed" in row["error"]
    assert row["outcome"]["watch"]["errors"] >= 3
    assert told["watched"] == []
    if strategy == "replace":
        assert told["active"]["reason"].startswith("auto_rollback: ")
        assert told["active"]["actor"] == "watch"
    else:
        assert told["canary"] is None
    assert world.metric("deployments_total", result="ok", reason="auto_rollback") == 1


def test_a_deployment_that_stands_the_test_keeps_its_figures(settings: Settings, bundle_fp32: Path) -> None:
    quick = settings.model_copy(update={"watch_s": 0.01, "watch_requests": 3, "worker": "separate"})
    with TestClient(create_app(quick)) as client:
        world = World(client, quick)
        Experiments(world.database, quick.store).import_bundle(bundle_fp32, "tests")
        world.deploy(FP32)
        for _ in range(3):
            world.ask()
        world.until(lambda: "watch" in world.overview()["active"]["outcome"])
        assert world.overview()["active"]["outcome"]["watch"]["errors"] == 0
