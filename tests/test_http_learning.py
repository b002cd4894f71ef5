"""Learning over HTTP, on both databases: wishes, refusals, accounts, live events, feedback, what is logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from ml_service.backend.app import create_app
from ml_service.backend.routes import experiments
from ml_service.common.settings import Settings
from ml_service.data.database import Database, now
from ml_service.data.experiments import Experiments
from ml_service.data.jobs import Jobs
from ml_service.data.series import Series
from ml_service.data.tables import Experiment, LoggedRequest
from ml_service.inference.handles import Live
from ml_service.pipeline.lessons import export_lessons

SMALL = {"budget": {"steps": 5}, "hyperparameters": {"window": 32}}
TEXTS = [
    f"line {number} of a text that is to be learned, and it goes on for a while {number * 7}" for number in range(60)
]


class Service:
    """The app over a store of its own, without a worker: what is queued stays queued."""

    def __init__(self, bundle: Path, store: Path, url: str | None, **changes: Any) -> None:
        self.settings = Settings(
            bundle=bundle, store=store, slots=2, threads=1, worker="separate", request_log_share=1.0,
            request_log_texts=True, database_url=SecretStr(url) if url else None, **changes,
        )  # fmt: skip
        self.app = create_app(self.settings)
        self.database: Database = self.app.state.database

    def add_data(self, client: TestClient) -> None:
        assert client.post("/add_data", json={"texts": TEXTS, "name": "texts"}).status_code == 200


@pytest.fixture
def service(bundle: Path, tmp_path: Path, database_url: str | None) -> Service:
    return Service(bundle, tmp_path / "store", database_url)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(service.app, raise_server_exceptions=False) as client:
        yield client


def problem(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


def test_a_wish_is_answered_at_once_and_the_same_wish_is_the_same_experiment(
    client: TestClient, service: Service
) -> None:
    assert "no data yet" in problem(client.post("/retrain", json=SMALL), 409)
    service.add_data(client)
    answers = [
        client.request(method, "/retrain", json=SMALL, headers={"Idempotency-Key": "once"})
        for method in ("POST", "PUT")
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == {"experiment_id": 2, "name": "retrain-2", "state": "queued"}
    assert answers[0].json() == answers[1].json()
    other = client.post("/retrain", json=SMALL | {"seed": 1}, headers={"Idempotency-Key": "once"})
    assert "asked for something else" in problem(other, 409)
    listed = client.get("/experiments").json()["experiments"]
    assert [each["experiment_id"] for each in listed] == [2, 1]
    assert client.get("/experiments", params={"state": "queued"}).json()["experiments"] == listed[:1]
    assert client.get("/experiments", params={"kind": "import", "sort": "name", "order": "asc"}).json()[
        "experiments"
    ] == [listed[1]]
    assert client.get("/experiments", params={"name": "TRAIN"}).json()["experiments"] == listed[:1]


def test_what_is_wrong_is_said_in_words(client: TestClient, service: Service) -> None:
    service.add_data(client)
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"budget": {"seconds": 1, "steps": 1}}, 400, "exactly one of seconds, tokens and steps"),
        ({"budget": {}}, 400, "exactly one"),
        ({"replay": 1}, 400, "replay"),
        ({"hyperparameters": {"nonsense": 1}}, 400, "hyperparameters.nonsense"),
        ({"hyperparameters": {"learning_rate": -1}}, 400, "hyperparameters.learning_rate"),
        ({"hyperparameters": {"preset": "\ud800"}}, 400, "half a surrogate pair"),
        ({"hyperparameters": {"preset": ["a", {"b": "\0"}]}}, 400, "NUL"),
        ({"start_from": 99}, 404, "no experiment 99"),
        ({"start_from": "nobody"}, 400, "start_from"),
        ({"dataset_version": 9}, 404, "no version 9"),
        ({"deploy_if": {"metric": "beauty"}}, 400, "metric"),
        ({"unknown": 1}, 400, "unknown field"),
    ]
    for body, status, words in wrong:
        sent = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        assert words in problem(client.post("/retrain", **sent), status), body  # type: ignore[arg-type]
    assert "no experiment 9" in problem(client.get("/metrics/9"), 404)
    assert "no experiment 9" in problem(client.post("/experiments/9/cancel"), 404)
    assert "at least two" in problem(client.get("/experiments/compare", params={"ids": "1"}), 400)
    assert "not numbers" in problem(client.get("/experiments/compare", params={"ids": "1,b"}), 400)
    assert problem(client.post("/retrain", content="x", headers={"Content-Type": "text/plain"}), 415)
    client.post("/retrain", json=SMALL).raise_for_status()
    assert "experiment 2 is still waiting to be trained" in problem(client.post("/deploy/2"), 409)


def test_a_waiting_experiment_is_cancelled_at_once_and_not_twice(client: TestClient, service: Service) -> None:
    service.add_data(client)
    client.post("/retrain", json=SMALL).raise_for_status()
    assert client.post("/experiments/2/cancel").json() == {"experiment_id": 2, "state": "cancelled"}
    assert "cancelled already" in problem(client.post("/experiments/2/cancel"), 409)
    assert "cancelled before it had a model" in problem(client.post("/deploy/2"), 409)


def test_the_account_has_curves_and_lineage_and_can_be_compared(client: TestClient, service: Service) -> None:
    service.add_data(client)
    for seed in range(2):
        client.post("/retrain", json=SMALL | {"seed": seed}).raise_for_status()
    with service.database.writing() as session:
        points = [
            {"step": step, "tokens": step * 64, "seconds": step / 2, "train_loss": 5.0 / (step + 1)}
            for step in range(50)
        ]
        Series(service.database).write(session, 2, [*points, points[-1] | {"step": 50, "train_loss": float("nan")}])
    account = client.get("/metrics/2", params={"max_points": 10}).json()
    curve = account["series"]["train_loss"]
    assert len(curve["step"]) == 10
    assert (curve["step"][0], curve["step"][-1], curve["value"][-1]) == (0, 50, None)
    assert account["lineage"]["dataset"]["version"] == 1
    assert account["lineage"]["parents"][0]["experiment_id"] == 1
    compared = client.get("/experiments/compare", params={"ids": "2,3"}).json()
    assert compared["plan"] == {"wish.seed": [0, 1]}
    assert client.get("/metrics/1").json()["lineage"]["deployments"][0]["state"] == "active"


def test_experiments_are_sorted_by_what_they_learned_and_counted(client: TestClient, service: Service) -> None:
    service.add_data(client)
    for seed in range(3):
        client.post("/retrain", json=SMALL | {"seed": seed}).raise_for_status()
    with service.database.writing() as session:
        for number, score in ((2, 1.5), (4, 1.25)):
            session.get_one(Experiment, number).summary = {"scores": {"new": {"bits_per_byte": score}}}

    def found(**wanted: Any) -> list[int]:
        return [each["experiment_id"] for each in client.get("/experiments", params=wanted).json()["experiments"]]

    assert found(sort="bits_per_byte", order="asc") == [4, 2, 3, 1]  # the shipped model was judged on nothing new
    assert found(sort="bits_per_byte") == [2, 4, 3, 1]
    assert found(sort="parameters")[0] == 1
    assert found(sort="data", order="asc")[-1] == 1
    rows = client.get("/experiments").json()["experiments"]
    assert [row["experiment_id"] for row in rows if row["deployable"]] == [1]
    page = client.get("/experiments", params={"state": "queued", "limit": 2}).json()
    assert (len(page["experiments"]), page["total"]) == (2, 3)
    assert [page["experiments"][0][name] for name in ("dataset_version", "preset", "corpora")] == [1, "nano", []]


def test_samples_are_told_for_as_long_as_they_are_kept(client: TestClient, service: Service, tmp_path: Path) -> None:
    assert client.get("/metrics/1").json()["samples"] is None
    written = tmp_path / "samples.md"
    written.write_text("# Once\n")
    with service.database.writing() as session:
        Experiments(service.database, service.settings.store).add_artifact(session, 1, "samples", written, "0" * 64)
    assert client.get("/metrics/1").json()["samples"] == "# Once\n"
    written.unlink()
    assert client.get("/metrics/1").json()["samples"] is None


def events_of(text: str) -> list[tuple[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block.strip()]
    return [(block["event"], json.loads(block["data"])) for block in blocks if "event" in block]


def test_an_experiment_is_followed_live_to_its_end(client: TestClient, service: Service) -> None:
    service.add_data(client)
    client.post("/retrain", json=SMALL).raise_for_status()
    jobs, series = Jobs(service.database), Series(service.database)
    claim = jobs.claim("tests", "here")
    assert claim is not None
    with jobs.fenced(claim) as session:
        series.write(session, 2, [{"step": 1, "tokens": 64, "seconds": 0.5, "train_loss": 4.0}])
        jobs.end(session, claim, "failed", "because of this test")
    answer = client.get("/metrics/2", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events_of(answer.text)
    assert [name for name, _ in told] == ["points", "state", "done"]
    assert told[0][1]["train_loss"]["value"] == [4.0]
    assert told[-1][1]["error"] == "because of this test"
    later = client.get("/metrics/2", params={"from_now": True}, headers={"Accept": "text/event-stream"})
    assert [name for name, _ in events_of(later.text)] == ["state", "done"]


def test_a_score_that_comes_after_the_loss_of_its_step_is_told_too(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "_LOOK_EVERY_S", 0.0)
    service.add_data(client)
    client.post("/retrain", json=SMALL).raise_for_status()
    jobs, series = Jobs(service.database), Series(service.database)
    claim = jobs.claim("tests", "here")
    assert claim is not None
    values = [{"train_loss": 4.0}, {"validation_new_loss": 5.0}, {"train_loss": 3.0}]

    async def told() -> list[dict[str, Any]]:
        found, store = [], Experiments(service.database, service.settings.store)
        async for event in experiments._follow(service.database, store, Live(), 2):
            ((name, data),) = events_of(event.decode())
            found += [data] if name == "points" else []
            if not values:
                return found
            axes = {"step": 10 if len(values) > 1 else 20, "tokens": 64, "seconds": 0.5}
            with jobs.fenced(claim) as session:
                series.write(session, 2, [axes | values.pop(0)])
        return found

    columns = asyncio.run(told())
    steps = [(key, each[key]["step"]) for each in columns for key in each]
    assert steps[:2] == [("train_loss", [10]), ("validation_new_loss", [10])]


def test_feedback_refers_to_an_answer_and_becomes_data(client: TestClient, service: Service) -> None:
    answer = client.post("/forward", json={"text": "def value_total(", "max_new_tokens": 4}).json()
    service_log(service)
    body = {"request_id": answer["id"], "accepted": False, "correction": "count, path):\n    return count\n" * 5}
    kept = client.post("/feedback", json=body)
    assert (kept.status_code, kept.json()["verdict"]) == (201, "corrected")
    assert "blank" in problem(client.post("/feedback", json=body | {"correction": "  "}), 400)
    assert "request_id" in problem(client.post("/feedback", json=body | {"request_id": "a b"}), 400)
    assert client.get("/feedback").json() == {"kept": 1, "lessons": 1}
    exported = client.post("/feedback/export")
    assert (exported.status_code, exported.json()) == (202, {"lessons": 1})
    claim = Jobs(service.database).claim("tests", "here")
    assert claim is not None
    assert claim.kind == "feedback"
    added = export_lessons(service.database, service.settings.store, "tests")
    assert added is not None
    assert added.report.accepted == 1
    assert client.get("/datasets").json()["datasets"][0]["sources"]["feedback"]["records"] == 1
    assert client.get("/feedback").json() == {"kept": 1, "lessons": 0}


def service_log(service: Service) -> list[LoggedRequest]:
    """What the request log has by now, what was still on its way too."""
    service.app.state.sampler.write()
    with service.database.reading() as session:
        return session.query(LoggedRequest).order_by(LoggedRequest.id).all()


def test_the_request_log_tells_who_answered_what(client: TestClient, service: Service) -> None:
    for path, name in (("/forward", "text"), ("/v1/completions", "prompt")):
        body = {name: "def value_total(", "model": "active"} if path.startswith("/v1") else {name: "def value_total("}
        client.post(path, json=body, headers={"X-Request-ID": f"to{path.replace('/', '-')}"}).raise_for_status()
    rows = service_log(service)
    assert [(row.request_id, row.route) for row in rows] == [
        ("to-forward", "/forward"), ("to-v1-completions", "/v1/completions"),
    ]  # fmt: skip
    assert rows[0].prompt == "def value_total("
    assert (rows[0].experiment_id, rows[0].generation) == (1, 1)
    assert rows[0].expires > now()
    assert rows[0].completion_tokens > 0


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
def test_a_number_that_no_row_can_have_is_refused(client: TestClient, number: int) -> None:
    for method, path in (("GET", "/metrics/{}"), ("POST", "/experiments/{}/cancel"), ("POST", "/deploy/{}"),
                         ("GET", "/datasets/{}"), ("GET", "/experiments/compare?ids=1,{}")):  # fmt: skip
        assert problem(client.request(method, path.format(number)), 400)
    assert "start_from" in problem(client.post("/retrain", json={"start_from": number}), 400)


@pytest.mark.parametrize("bad", ["a\\u0000b", "a\\ud800b"])
def test_a_text_that_no_database_can_keep_is_refused(client: TestClient, bad: str) -> None:
    for path, field in (("/retrain", "experiment_name"), ("/feedback", "prompt"), ("/feedback", "correction"),
                        ("/deploy/1", "reason"), ("/rollback", "reason")):  # fmt: skip
        others = '"request_id": "x", "accepted": true, ' if path == "/feedback" else ""
        body = f'{{{others}"{field}": "{bad}"}}'
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert field in problem(answer, 400), path
    assert problem(client.get("/experiments", params={"name": "a\0b"}), 400)


def test_what_is_pinned_says_so(client: TestClient, service: Service) -> None:
    assert client.post("/experiments/1/pin", json={"pinned": False}).status_code == 204
    with service.database.reading() as session:
        assert not session.get_one(Experiment, 1).pinned
    assert "no experiment 9" in problem(client.post("/experiments/9/pin", json={}), 404)
