"""Deployments over HTTP with two real bundles: swap, roll back, shadow, canary, the watch; no request is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_service.common.bundle import GRAPH_FILE, load_manifest
from ml_service.common.settings import Settings
from ml_service.data import audit
from ml_service.data.experiments import Experiments
from tests.http_world import FP32, INT8, World, opened_world
from tests.test_http import PROMPT, events


@pytest.fixture
def world(settings: Settings, bundle_fp32: Path) -> Iterator[World]:
    with opened_world(settings, bundle_fp32) as world:
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
    assert world.client.delete("/deploy/everything").status_code == 405
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
