"""`/evaluate` over HTTP: at once or as a job, any experiment, kept and cached; refusals in words, nothing left."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.backend.routes import evaluate
from ml_service.common.settings import Settings
from ml_service.data.experiments import Experiments
from ml_service.pipeline import evaluating
from ml_service.pipeline.judging.question import ROWS_FILE, SCRATCH
from ml_service.pipeline.worker import Worker

TEXTS = ["def value_total(count):\n    return count\n", "if name is None:\n", "naïve 🙂"]
ROWS = "sentence,acceptable\nif name is,1\nreturn count,0\nbuffer = [,1\n"
REFUSED = [
    ({"data": {"text_column": "nope"}}, 400, "no column 'nope'"),
    ({"data": {"metrics": "beauty"}}, 400, "'beauty' is none of"),
    ({"data": {"unknown": "1"}}, 400, "unknown field"),
    ({"data": {"max_new_tokens": "many"}}, 400, "max_new_tokens"),
    ({"data": {"experiment_id": "99"}}, 404, "no experiment 99"),
    ({"files": {"file": ("a.txt", b"text")}}, 400, "none of .csv"),
    ({"files": {"file": ("a.csv", "text\nя\n".encode("utf-16"))}}, 400, "UTF-16"),
    ({"files": {"file": ("a.zip", b"no zip")}}, 400, "zip"),
    ({"files": {"other": ("a.csv", b"text\nx\n")}}, 400, "unknown field"),
    ({"files": [("file", ("a.csv", b"text\nx\n")), ("file", ("b.csv", b"text\nx\n"))]}, 400, "one file"),
]


class World:
    """The app and its client; no worker but those that a test starts."""

    def __init__(self, client: TestClient, settings: Settings) -> None:
        self.client, self.settings = client, settings
        self.database = client.app.state.database  # type: ignore[attr-defined]

    def evaluate(self, status: int = 200, headers: dict[str, str] | None = None, **request: Any) -> dict[str, Any]:
        answer = self.client.post("/evaluate", headers=headers or {}, **request)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def left_behind(self) -> list[str]:
        """Files of questions and uploads."""
        folders = (self.settings.store / "evaluations", self.settings.store / "datasets")
        return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())

    def work(self) -> None:
        Worker(self.database, self.settings).run(until_idle_s=0.0)


@contextmanager
def opened(bundle: Path, store: Path, **changes: Any) -> Iterator[World]:
    settings = Settings(
        bundle=bundle, store=store, slots=4, threads=1, prefill_chunk=32, worker="separate", **changes
    )  # fmt: skip
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield World(client, settings)


@pytest.fixture
def world(bundle: Path, tmp_path: Path) -> Iterator[World]:
    with opened(bundle, tmp_path / "store") as world:
        yield world


@pytest.fixture
def patient(bundle: Path, tmp_path: Path) -> Iterator[World]:
    """Where every question waits for a worker."""
    with opened(bundle, tmp_path / "store", evaluate_at_once_bytes=0) as world:
        yield world


def test_a_little_is_judged_at_once_and_kept_under_its_experiment(world: World) -> None:
    first = world.evaluate(json={"texts": TEXTS})
    assert (first["state"], first["cached"], first["experiment_id"]) == ("succeeded", False, 1)
    assert first["report"]["count"] == 3
    assert first["metrics"]["bits_per_byte"] == first["report"]["metrics"]["bits_per_byte"]["value"]
    rows = list(csv.DictReader(io.StringIO(world.client.get(first["rows"]).text)))
    assert [row["asked"] for row in rows] == TEXTS
    again = world.evaluate(json={"texts": TEXTS})
    assert (again["cached"], again["id"], again["metrics"]) == (True, first["id"], first["metrics"])
    (kept,) = world.client.get("/metrics/1").json()["evaluations"]
    assert (kept["id"], kept["data"], kept["metrics"]) == (first["id"], "texts", first["metrics"])
    assert world.client.get(f"/evaluations/{first['id']}").json() == {
        name: value for name, value in first.items() if name != "cached"
    }
    assert [each["id"] for each in world.client.get("/evaluations").json()["evaluations"]] == [first["id"]]
    assert world.left_behind() == ["log.txt", "question.json", "report.json", "rows.csv"]


def test_a_little_that_comes_beside_another_waits_for_its_turn_and_needs_no_worker(world: World) -> None:
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(world.evaluate, json={"texts": [text]}) for text in TEXTS]
    judged = [each.result() for each in asked]
    assert [each["state"] for each in judged] == ["succeeded"] * 3
    assert len({each["id"] for each in judged}) == 3


def test_any_experiment_is_judged_in_its_own_precision(world: World, bundle_fp32: Path) -> None:
    other = Experiments(world.database, world.settings.store).import_bundle(bundle_fp32, "tests")
    files = {"file": ("dev.csv", ROWS.encode())}
    active = world.evaluate(files=files)
    judged = world.evaluate(files=files, data={"experiment_id": str(other.id)})
    assert judged["experiment_id"] == other.id
    assert judged["metrics"] != active["metrics"]
    assert judged["metrics"]["bits_per_byte"] == pytest.approx(active["metrics"]["bits_per_byte"], rel=0.05)
    assert set(judged["metrics"]) >= {"accuracy", "f1", "mcc", "perplexity"}
    assert judged["report"]["columns"] | {} == {
        "text": "sentence", "label": "acceptable", "prompt": None, "target": None, "image": None,
    }  # fmt: skip


def test_options_come_as_fields_and_headers(world: World) -> None:
    table = "q,a\nif name is ,None\nreturn ,count\n"
    data = {"prompt_column": "q", "metrics": ["exact_match", "cer"], "stop": json.dumps(["\n"])}
    headers = {"X-Target-Column": "a", "X-Max-New-Tokens": "2"}
    judged = world.evaluate(files={"file": ("qa.csv", table.encode())}, data=data, headers=headers)
    assert set(judged["metrics"]) == {"exact_match", "cer"}
    assert judged["report"]["columns"]["target"] == "a"


def test_much_waits_for_a_worker_and_tells_how_it_stands(patient: World) -> None:
    table = "text\n" + "".join(f"value {number}\n" for number in range(200))
    files = {"file": ("dev.csv", table.encode())}
    asked = patient.evaluate(202, files=files, headers={"Prefer": "respond-async"})
    assert (asked["state"], asked["report"], asked["rows"]) == ("queued", None, None)
    twice = patient.evaluate(202, files=files, headers={"Prefer": "wait=0"})
    assert (twice["id"], twice["cached"]) == (asked["id"], True)
    missing = patient.client.get(f"/evaluations/{asked['id']}/rows.csv")
    assert missing.status_code == 404 and "it is not over" in missing.json()["detail"]
    (folder,) = (patient.settings.store / "evaluations").iterdir()
    (folder / f"{SCRATCH}of-one-that-was-killed").mkdir()
    (folder / f".{ROWS_FILE}.of-it").write_text("half a table")
    patient.work()
    assert patient.left_behind() == ["log.txt", "question.json", "report.json", "rows.csv"]
    assert not list(folder.glob(f"{SCRATCH}*"))
    done = patient.client.get(f"/evaluations/{asked['id']}").json()
    assert (done["state"], done["report"]["count"]) == ("succeeded", 200)
    assert patient.evaluate(files=files)["metrics"] == done["metrics"]


def test_who_waits_is_told_when_a_worker_is_done(patient: World) -> None:
    worker = Worker(patient.database, patient.settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    judged = patient.evaluate(json={"texts": TEXTS}, headers={"Prefer": "wait=60"})
    worker.stop.set()
    thread.join()
    assert judged["state"] == "succeeded"


def test_a_wish_can_be_taken_back(patient: World) -> None:
    asked = patient.evaluate(202, json={"texts": TEXTS}, headers={"Prefer": "respond-async"})
    cancelled = patient.client.post(f"/evaluations/{asked['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (202, {"id": asked["id"], "state": "cancelled"})
    assert patient.client.post(f"/evaluations/{asked['id']}/cancel").status_code == 409
    assert not patient.left_behind()
    assert patient.client.get("/evaluations/99").status_code == 404
    assert patient.evaluate(202, json={"texts": TEXTS}, headers={"Prefer": "respond-async"})["state"] == "queued"


def test_a_worker_that_ends_gives_the_question_back(patient: World) -> None:
    asked = patient.evaluate(202, json={"texts": TEXTS}, headers={"Prefer": "respond-async"})
    worker = Worker(patient.database, patient.settings)
    began = worker._jobs.claim  # the moment in which a job begins

    def claim(*arguments: Any) -> Any:
        found = began(*arguments)
        if found is not None:
            worker.stop.set()
        return found

    worker._jobs.claim = claim  # type: ignore[method-assign]
    worker.run()
    assert patient.client.get(f"/evaluations/{asked['id']}").json()["state"] in ("queued", "succeeded")
    patient.work()
    assert patient.client.get(f"/evaluations/{asked['id']}").json()["state"] == "succeeded"


@pytest.mark.parametrize(("request_", "status", "words"), REFUSED)
def test_what_is_wrong_is_said_in_words_and_nothing_is_left(
    world: World, request_: dict[str, Any], status: int, words: str
) -> None:
    files = request_.get("files", {"file": ("a.csv", b"text\nx = 1\n")})
    refused = world.evaluate(status, files=files, data=request_.get("data", {}))
    assert words in refused["detail"]
    assert not world.left_behind()


def test_wrong_bodies_are_refused(world: World) -> None:
    assert "takes application/json or multipart" in world.evaluate(415, content=b"x")["detail"]
    assert "texts" in world.evaluate(400, json={})["detail"]
    assert "texts" in world.evaluate(400, json={"texts": []})["detail"]
    assert "Prefer" in world.evaluate(400, json={"texts": ["x"]}, headers={"Prefer": "wait=soon"})["detail"]
    assert evaluate.UPLOAD_PATH in world.client.get("/openapi.json").json()["paths"]


def test_a_full_disk_is_said_and_nothing_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)); "
    code = f"{limited}from ml_service.pipeline.judging import process; process.main()"
    run = evaluating.run_watched

    def with_little_room(command: list[str], *rest: Any) -> None:
        run([command[0], "-c", code, *command[3:]], *rest)

    monkeypatch.setattr(evaluating, "run_watched", with_little_room)
    table = "text\n" + "".join(f"value {number}\n" for number in range(300))
    refused = world.evaluate(507, files={"file": ("dev.csv", table.encode())})
    assert "the disk has too little room" in refused["detail"]
    assert not world.left_behind()
