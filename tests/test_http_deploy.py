"""Deployments over HTTP with two real bundles: swap, roll back, shadow, canary, the watch; no request is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.common.bundle import GRAPH_FILE, load_manifest
from ml_service.common.errors import ModelFailure
from ml_service.common.settings import Settings
from ml_service.data import audit
from ml_service.data.experiments import Experiments
from tests.test_http import PROMPT, events

INT8, FP32 = 1, 2
"""The experiments: the first was deployed at the start."""


class World:
    """The app, its client and what it knows of itself."""

    def __init__(self, client: TestClient, settings: Settings) -> None:
        self.client, self.settings = client, settings
        self.app: Any = client.app
        self.database = self.app.state.database

    def deploy(self, experiment_id: int, status: int = 200, key: str | None = None, **body: object) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = self.client.post(f"/deploy/{experiment_id}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def roll_back(self, status: int = 200, key: str | None = None) -> dict[str, Any]:
        answer = self.client.post("/rollback", headers={} if key is None else {"Idempotency-Key": key})
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def overview(self) -> dict[str, Any]:
        return dict(self.client.get("/deployments").raise_for_status().json())

    def ask(self, id_: str = "x", **changes: object) -> dict[str, Any]:
        answer = self.client.post("/forward", json=PROMPT | changes, headers={"X-Request-ID": id_})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def answering(self) -> tuple[int, str, int]:
        model = self.ask()["model"]
        return model["experiment_id"], model["precision"], model["generation"]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def metric(self, name: str, **labels: str) -> float:
        return self.app.state.telemetry.registry.get_sample_value(f"ml_service_{name}", labels) or 0.0


@pytest.fixture
def world(settings: Settings, bundle_fp32: Path) -> Iterator[World]:
    settings = settings.model_copy(update={"watch_requests": 5, "max_waiting": 60, "worker": "separate"})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        world = World(client, settings)
        assert Experiments(world.database, settings.store).import_bundle(bundle_fp32, "tests").id == FP32
        yield world


def test_a_deployment_is_proved_live_and_remembered(world: World) -> None:
    assert world.answering() == (INT8, "int8", 1)
    done = world.deploy(FP32, reason="more exact")
    assert (done["generation"], done["state"], done["experiment"]) == (2, "active", "small")
    assert done["replicas"] == {"loaded": 1, "of": 1}
    assert world.answering() == (FP32, "fp32", 2)
    assert world.client.get("/metadata").json()["precision"] == "fp32"
    told = world.overview()
    assert (told["generation"], told["active"]["id"], told["previous"]["experiment_id"]) == (2, done["id"], INT8)
    assert [(row["generation"], row["state"], row["reason"]) for row in told["history"]] == [
        (2, "active", "more exact"), (1, "retired", "first start"),
    ]  # fmt: skip
    assert world.metric("deployed_generation") == 2
    assert world.metric("deployments_total", result="ok", reason="replace") == 1
    assert 'precision="fp32"' in world.client.get("/metrics").text
    assert audit.verify(world.database)[1] is None


def test_a_rollback_goes_back_once_and_then_there_is_nothing(world: World) -> None:
    assert "nothing before generation 1" in world.roll_back(409)["detail"]
    world.deploy(FP32)
    back = world.roll_back(key="once")
    assert (back["strategy"], back["reason"]) == ("rollback", "rollback of generation 2")
    assert world.answering() == (INT8, "int8", 3)
    assert world.roll_back(key="once")["id"] == back["id"]
    assert "nothing before generation 3" in world.roll_back(409)["detail"]
    assert world.answering() == (INT8, "int8", 3)


def test_what_cannot_be_deployed_is_told_in_words_and_changes_nothing(world: World) -> None:
    assert world.deploy(77, 404)["detail"] == "there is no experiment 77"
    assert "percent" in world.deploy(FP32, 400, percent=10)["detail"]
    assert world.deploy(0, 400)["title"] == world.deploy(2**63, 400)["title"] == "bad request"
    assert "says nothing" not in world.deploy(INT8, 409, strategy="shadow")["detail"]
    assert world.client.delete("/deploy/canary").json()["detail"] == "there is no canary"
    assert world.client.delete("/deploy/everything").status_code == 400
    world.deploy(FP32, key="k")
    assert world.deploy(INT8, 409, key="k")["detail"] == "the Idempotency-Key belongs to another deployment"
    assert world.deploy(FP32, key="k")["generation"] == 2
    assert world.answering() == (FP32, "fp32", 2)


def test_a_bundle_that_does_not_prove_itself_is_refused_and_remembered(world: World, bundle_int4: Path) -> None:
    experiments = Experiments(world.database, world.settings.store)
    damaged = experiments.import_bundle(bundle_int4, "tests").id
    whole = (bundle_int4 / GRAPH_FILE).read_bytes()
    try:
        (bundle_int4 / GRAPH_FILE).write_bytes(whole[:-1])
        for _ in range(2):
            assert "model.onnx is not the file" in world.deploy(damaged, 409, key="k")["detail"]
    finally:
        (bundle_int4 / GRAPH_FILE).write_bytes(whole)
    failed, _ = world.overview()["history"]
    assert (failed["state"], failed["generation"]) == ("failed", None)
    assert "model.onnx is not the file" in failed["error"]
    assert world.answering() == (INT8, "int8", 1)
    assert world.metric("deployments_total", result="failed", reason="replace") == 2


def test_fifty_deployments_at_once_leave_one_active_and_no_error(world: World) -> None:
    with ThreadPoolExecutor(50) as pool:
        done = list(pool.map(lambda number: world.client.post(f"/deploy/{1 + number % 2}"), range(50)))
        asked = list(pool.map(lambda number: world.ask(str(number)), range(20)))
    assert {answer.status_code for answer in done} == {200}
    assert sorted(answer.json()["generation"] for answer in done) == list(range(2, 52))
    assert {answer["model"]["experiment_id"] for answer in asked} <= {INT8, FP32}
    history = world.client.get("/deployments?limit=100").json()["history"]
    assert [row["state"] for row in history] == ["active"] + ["retired"] * 50
    assert world.answering()[2] == 51
    world.until(lambda: len([t for t in threading.enumerate() if t.name == "decode-loop"]) <= _loops_before(world) + 1)


def _loops_before(world: World) -> int:
    """Loops of other tests' engines: this app should have one."""
    own = {engine._loop._thread for engine in world.app.state.live._open}
    return len([thread for thread in threading.enumerate() if thread.name == "decode-loop" and thread not in own])


def test_a_stream_that_runs_ends_on_the_model_that_it_began_on(world: World) -> None:
    expected = world.ask(max_new_tokens=30)["prediction"]
    session = world.app.state.live.current.engine._loop._session
    run, gate, steps = session.run, threading.Event(), []

    def held(rows: object) -> object:
        steps.append(rows)
        assert len(steps) < 3 or gate.wait(20)
        return run(rows)

    session.run = held
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(world.client.post, "/forward", json=PROMPT | {"max_new_tokens": 30, "stream": True})
        world.until(lambda: len(steps) >= 3)
        world.deploy(FP32)
        assert world.answering() == (FP32, "fp32", 2)
        assert world.app.state.live.busy == 1
        assert world.metric("num_requests_running") == 1
        gate.set()
        last, done = events(answer.result().text)[-1]
    assert (last, done["model"]["generation"], done["prediction"]) == ("done", 1, expected)
    world.until(lambda: len(world.app.state.live._open) == 1)


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
    (watched,) = world.overview()["watched"]
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


def test_metadata_of_a_model_that_is_not_open_are_those_of_its_file(world: World, bundle_fp32: Path) -> None:
    of_file = world.client.get(f"/metadata/{FP32}").json()
    assert of_file["sha256"] == load_manifest(bundle_fp32).files
    assert world.client.get(f"/metadata/{INT8}").json() == world.client.get("/metadata").json()
    assert world.client.get("/metadata/77").status_code == 404
    world.deploy(FP32)
    assert world.client.get("/metadata").json() == of_file


def test_the_examples_of_the_openapi_document_deploy(world: World) -> None:
    document = world.client.get("/openapi.json").json()
    examples = document["components"]["schemas"]["DeployRequest"]["examples"]
    for number, example in enumerate(examples):
        world.deploy(FP32 if number else INT8, **example)
    responses = document["paths"]["/deploy/{experiment_id}"]["post"]["responses"]
    assert {"200", "400", "401", "404", "409", "503"} <= set(responses)
    assert world.client.post("/rollback", json={"reason": "x"}).json()["reason"] == "rollback of generation 2: x"
