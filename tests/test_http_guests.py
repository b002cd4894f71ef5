"""Any experiment answers, over HTTP: a model that is not deployed is opened for who names it, and harms nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ml_service.common.bundle import GRAPH_FILE
from ml_service.common.settings import Settings
from ml_service.data.database import now
from ml_service.data.experiments import Experiments
from ml_service.data.tables import Artifact, Experiment
from ml_service.pipeline import guests as guests_module
from ml_service.pipeline.guests import SLOTS
from tests.http_world import FP32, INT8, World, opened_world
from tests.test_http import PROMPT, events

INT4 = 3
PROMPTS = ("def value_total(count", "", "naïve, 日本, 🙂", "    if item is None:\n", "head tail node")


@pytest.fixture
def world(settings: Settings, bundle_fp32: Path) -> Iterator[World]:
    with opened_world(settings.model_copy(update={"max_guests": 1}), bundle_fp32) as world:
        yield world


@pytest.fixture
def copies(world: World, bundle_int4: Path, tmp_path: Path) -> Path:
    """A third experiment, whose files may be damaged and removed."""
    copy = Path(shutil.copytree(bundle_int4, tmp_path / "copy"))
    assert Experiments(world.database, world.settings.store).import_bundle(copy, "tests").id == INT4
    return copy


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The bundles that were opened for guests."""
    opened: list[Path] = []
    real = guests_module.open_live_model

    def noted(bundle: Path, *rest: Any) -> Any:
        opened.append(bundle)
        return real(bundle, *rest)

    monkeypatch.setattr(guests_module, "open_live_model", noted)
    return opened


def refused(world: World, model: str, status: int) -> str:
    answer = world.client.post("/forward", json=PROMPT | {"model": model})
    assert answer.status_code == status, answer.text
    assert ("Retry-After" in answer.headers) == (status in (429, 503))
    return str(answer.json()["detail"])


def listed(world: World) -> list[str]:
    return [model["id"] for model in world.client.get("/v1/models").json()["data"]]


def rename(world: World, experiment_id: int, **columns: object) -> None:
    with world.database.writing() as session:
        experiment = session.get(Experiment, experiment_id)
        for name, value in columns.items():
            setattr(experiment, name, value)


def test_a_request_can_name_any_experiment_that_has_a_bundle(world: World, openings: list[Path]) -> None:
    rename(world, FP32, name="with our notes")
    assert listed(world) == ["active", "small", "1"]
    answer = world.ask(model=str(FP32))
    assert answer["model"]["experiment_id"] == FP32
    assert (answer["model"]["precision"], answer["model"]["generation"]) == ("fp32", 0)
    assert listed(world) == ["active", "small", "1", "2"]
    assert world.ask(model="with our notes")["prediction"] == answer["prediction"]
    for name in ("active", "small", str(INT8)):
        assert world.ask(model=name)["model"]["experiment_id"] == INT8
    assert world.answering() == (INT8, "int8", 1)
    assert len(openings) == 1
    info = world.app.state.telemetry.model_info.collect()[0].samples
    assert [sample.labels["experiment_id"] for sample in info] == [str(INT8)]
    assert world.client.get("/health/ready").json() == {"status": "ok"}


def test_a_form_a_header_a_batch_and_openais_routes_name_it_too(world: World, openings: list[Path]) -> None:
    def post(path: str, **how: Any) -> dict[str, Any]:
        return dict(world.client.post(path, **how).raise_for_status().json())

    form = {"text": (None, PROMPT["text"]), "max_new_tokens": (None, "12")}
    answer = world.ask(model="2")
    assert post("/forward", files=form | {"model": (None, "2")})["model"] == answer["model"]
    by_header = post("/forward", files=form, headers={"X-Model": "2"})
    assert (by_header["model"], by_header["prediction"]) == (answer["model"], answer["prediction"])
    batch = {"texts": [PROMPT["text"]], "max_new_tokens": 12, "model": "2"}
    assert post("/forward_batch", json=batch)["predictions"][0]["prediction"] == answer["prediction"]
    file = {"file": ("rows.txt", f"{PROMPT['text']}\n"), "max_new_tokens": (None, "12"), "model": (None, "2")}
    assert post("/forward_batch", files=file)["predictions"][0]["prediction"] == answer["prediction"]
    asked = {"model": "2", "max_tokens": 12, "temperature": 0}
    completion = post("/v1/completions", json=asked | {"prompt": PROMPT["text"]})
    assert completion["choices"][0]["text"] == answer["prediction"]
    messages = [{"role": "user", "content": "def value"}]
    assert post("/v1/chat/completions", json=asked | {"messages": messages})["choices"]
    stream = world.client.post("/forward", json=PROMPT | {"model": "2", "stream": True})
    *_, (last, done) = events(stream.text)
    assert (last, done["model"], done["prediction"]) == ("done", answer["model"], answer["prediction"])
    assert len(openings) == 1
    row = post("/forward_batch", json={"texts": [{"text": "a", "model": "2"}]})["predictions"][0]
    assert row["error"] == "model: unknown field"


@pytest.mark.parametrize("number", [INT8, FP32, INT4])
@pytest.mark.usefixtures("copies")
def test_a_guest_answers_what_the_same_bundle_answers_where_it_is_active(world: World, number: int) -> None:
    def answers(model: str) -> list[tuple[str, list[int]]]:
        told = [world.ask(text=text, model=model, max_new_tokens=24, logprobs=0) for text in PROMPTS]
        return [(each["prediction"], [token["token_id"] for token in each["logprobs"]]) for each in told]

    world.deploy(INT8 if number != INT8 else FP32)
    guest = answers(str(number))
    assert world.ask(model=str(number))["model"]["generation"] == 0
    world.deploy(number)
    assert world.ask(model=str(number))["model"]["generation"] == 3
    assert answers(str(number)) == answers("active") == guest


@pytest.mark.usefixtures("copies")
def test_what_is_not_there_is_404_and_what_has_no_bundle_409_in_words(world: World) -> None:
    for name in ("77", "gpt-4", "0", "9" * 30, "naïve"):
        assert refused(world, name, 404).startswith(f"there is no model {name!r} here: no experiment has that number")
    for role in ("canary", "shadow"):
        assert refused(world, role, 404) == f"there is no model {role!r} here: ask for active, small, 1"
    for wrong in ("", "a\0b", "x" * 121):
        assert refused(world, wrong, 400).startswith("model: ")
    for state, words in (("running", "is still training"), ("queued", "is still waiting to be trained")):
        rename(world, INT4, state=state, name="late")
        assert refused(world, str(INT4), 409) == refused(world, "late", 409) == f"experiment 3 {words}"
    rename(world, INT4, state="succeeded")
    with world.database.writing() as session:
        for artifact in session.scalars(select(Artifact).where(Artifact.experiment_id == INT4)):
            artifact.removed = now()
    assert refused(world, "late", 409) == "experiment 3 has no bundle any more: retention removed its files"
    openai = world.client.post("/v1/completions", json={"model": "late", "prompt": "a"})
    assert (openai.status_code, openai.json()["error"]["code"]) == (409, "conflict")
    rename(world, FP32, name="late")  # older, but it has a bundle
    assert world.ask(model="late")["model"]["experiment_id"] == FP32


def test_many_who_want_the_same_guest_wait_for_one_opening(world: World, openings: list[Path]) -> None:
    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(lambda number: world.ask(str(number), model=str(FP32)), range(12)))
    assert {answer["model"]["experiment_id"] for answer in told} == {FP32}
    assert len({answer["prediction"] for answer in told}) == 1
    assert len(openings) == 1


@pytest.mark.usefixtures("copies")
def test_a_further_guest_takes_the_place_of_one_that_rests_and_no_others(world: World) -> None:
    live = world.app.state.live
    world.ask(model=str(FP32))
    assert world.ask(model=str(INT4))["model"]["precision"] == "int4"
    assert listed(world) == ["active", "small", "1", "3"]
    busy = live.take_experiment(INT4)
    assert busy.engine.slots <= SLOTS
    assert refused(world, str(FP32), 429).startswith("others use the one place for models that are not deployed:")
    assert world.ask(model=str(INT4))["model"]["experiment_id"] == INT4
    assert world.answering()[0] == INT8
    live.give_back(busy)
    assert world.ask(model=str(FP32))["model"]["experiment_id"] == FP32


@pytest.mark.usefixtures("copies")
def test_guests_that_are_asked_for_at_once_each_answer_or_are_refused(world: World) -> None:
    def ask(number: int) -> tuple[int, int, int]:
        model = (FP32, INT4, INT8)[number % 3]
        answer = world.client.post("/forward", json=PROMPT | {"model": str(model)})
        told = answer.json()["model"]["experiment_id"] if answer.status_code == 200 else model
        return model, told, answer.status_code

    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(ask, range(60)))
    assert all(asked == told for asked, told, _ in done)
    assert {status for _, _, status in done} <= {200, 429}
    assert {status for asked, _, status in done if asked == INT8} == {200}
    assert 200 in {status for asked, _, status in done if asked != INT8}
    assert len(world.app.state.live._guests.models) == 1


def test_a_damaged_guest_fails_with_its_reason_and_takes_nobodys_place(world: World, copies: Path) -> None:
    world.ask(model=str(FP32))
    graph = copies / GRAPH_FILE
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    for _ in range(2):
        assert refused(world, str(INT4), 409).startswith("model.onnx is not the file that the manifest describes")
    assert listed(world) == ["active", "small", "1", "2"]
    assert world.answering() == (INT8, "int8", 1)
    graph.write_bytes(whole)
    assert world.ask(model=str(INT4))["model"]["experiment_id"] == INT4
    world.ask(model=str(FP32))
    manifest = copies / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert refused(world, str(INT4), 409) == "the bundle of experiment 3 is not the one that it left"


def test_files_that_are_removed_are_of_no_concern_to_an_open_guest(world: World, copies: Path) -> None:
    before = world.ask(model=str(INT4), json_schema={"type": "integer"})["prediction"]
    shutil.rmtree(copies)
    assert world.ask(model=str(INT4), json_schema={"type": "integer"})["prediction"] == before
    world.app.state.live.dismiss_idle(waits=True)
    assert refused(world, str(INT4), 409) == "copy is no bundle: it has no manifest.json"


def test_a_guest_that_nobody_asks_for_is_closed(settings: Settings, bundle_fp32: Path) -> None:
    brief = settings.model_copy(update={"guest_idle_s": 0.2})
    with opened_world(brief, bundle_fp32) as world:
        world.ask(model=str(FP32))
        guest = world.app.state.live.of_experiment(FP32).engine
        world.until(lambda: listed(world) == ["active", "small", "1"])
        world.until(lambda: guest not in world.app.state.live._open)
        assert world.ask(model=str(FP32))["model"]["experiment_id"] == FP32


def test_without_places_only_what_is_deployed_answers(settings: Settings, bundle_fp32: Path) -> None:
    with opened_world(settings.model_copy(update={"max_guests": 0}), bundle_fp32) as world:
        assert refused(world, str(FP32), 404) == "there is no model '2' here: ask for active, small, 1"
        assert world.ask(model=str(INT8))["model"]["experiment_id"] == INT8


def test_the_openapi_document_tells_of_the_model(world: World) -> None:
    document = world.client.get("/openapi.json").json()
    assert document["components"]["schemas"]["ForwardRequest"]["properties"]["model"]["default"] == "active"
    assert {"404", "409", "429"} <= set(document["paths"]["/forward"]["post"]["responses"])
    assert "model" in json.dumps(document["paths"]["/forward"]["post"]["requestBody"]["content"]["multipart/form-data"])
