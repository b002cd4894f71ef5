"""The HTTP contract: answers, streams, every error of the table, metrics that move."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.backend.errors import PROBLEM, STATUS_OF, problem_of
from ml_service.common import errors
from ml_service.common.bundle import GRAPH_FILE, load_manifest
from ml_service.common.settings import Settings
from ml_service.inference.live import Live

PROMPT = {"text": "def value_total(count", "max_new_tokens": 12}


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    settings = Settings(bundle=bundle, slots=4, max_waiting=4, prefill_chunk=16, threads=1, max_body_bytes=20_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, **changes: object) -> dict:  # type: ignore[type-arg]
    answer = client.post("/forward", json=PROMPT | changes)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert isinstance(body, dict)
    return body


def events(text: str) -> list[tuple[str, dict]]:  # type: ignore[type-arg]
    """(event, data) of each server-sent event."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event", "message"), json.loads(lines["data"])))
    return found


def test_forward_answers_as_the_contract_says(client: TestClient, bundle: Path) -> None:
    body = post(client)
    manifest = load_manifest(bundle)
    assert body["model"] == {
        "experiment_id": None,
        "experiment": "small",
        "commit": manifest.commit,
        "precision": "int8",
        "generation": 1,
    }
    assert body["finish_reason"] in ("stop", "length")
    assert body["usage"]["completion_tokens"] <= 12
    assert body["usage"]["prompt_tokens"] > 1
    assert body["timings"]["prefill_ms"] > 0
    assert body["logprobs"] is None
    assert body["prediction"]
    assert post(client)["prediction"] == body["prediction"]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 5}, {"stop": ["e"]}, {"logprobs": 2}])
def test_the_stream_is_the_whole_answer_in_pieces(client: TestClient, sampling: dict[str, object]) -> None:
    whole = post(client, **sampling)
    answer = client.post("/forward", json=PROMPT | sampling | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, (last, done) = events(answer.text)
    assert last == "done"
    assert "".join(data["delta"] for _, data in deltas) == done["prediction"] == whole["prediction"]
    assert done["logprobs"] == whole["logprobs"]
    assert {data["id"] for _, data in deltas} == {answer.headers["x-request-id"]}


def test_the_seed_decides_and_sampling_parameters_work(client: TestClient) -> None:
    first = post(client, temperature=1.5, seed=1, max_new_tokens=20)["prediction"]
    assert post(client, temperature=1.5, seed=1, max_new_tokens=20)["prediction"] == first
    assert post(client, temperature=1.5, seed=2, max_new_tokens=20)["prediction"] != first
    assert post(client, temperature=1.5, seed=1, top_k=1)["prediction"] == post(client)["prediction"]


def test_a_stop_string_ends_the_answer_before_it(client: TestClient) -> None:
    whole = post(client)["prediction"]
    body = post(client, stop=[whole[3:5]])
    assert body["prediction"] == whole[: whole.index(whole[3:5])]
    assert body["finish_reason"] == "stop"


def test_log_probabilities_come_with_their_alternatives(client: TestClient) -> None:
    body = post(client, logprobs=3)
    assert len(body["logprobs"]) == body["usage"]["completion_tokens"]
    for score in body["logprobs"]:
        assert score["alternatives"][0]["token_id"] == score["token_id"]
        assert score["logprob"] == pytest.approx(score["alternatives"][0]["logprob"])
        assert len(score["alternatives"]) == 3


def test_an_empty_prompt_begins_a_document(client: TestClient) -> None:
    body = post(client, text="")
    assert body["usage"]["prompt_tokens"] == 1


def test_request_ids_are_kept_where_they_are_sane(client: TestClient) -> None:
    answer = client.post("/forward", json=PROMPT, headers={"X-Request-ID": "mine-7"})
    assert answer.headers["x-request-id"] == answer.json()["id"] == "mine-7"
    for insane in ("a b", "x" * 200, "<script>"):
        given = client.get("/health", headers={"X-Request-ID": insane}).headers["x-request-id"]
        assert given != insane
        assert len(given) == 32


BAD_BODIES = {
    "not JSON": (b"{", "not JSON"),
    "no object": (b"[]", "valid dictionary"),
    "no text": (b"{}", "text: Field required"),
    "a mistyped text": (b'{"text": 3}', "text: Input should be a valid string"),
    "an unknown field": (b'{"text": "a", "tempreture": 1}', "tempreture: unknown field"),
    "a parameter out of range": (b'{"text": "a", "temperature": -1}', "temperature: Input should be greater"),
    "an infinite parameter": (b'{"text": "a", "temperature": Infinity}', "temperature"),
    "an empty stop string": (b'{"text": "a", "stop": [""]}', "stop.0"),
    "too many tokens": (b'{"text": "a", "max_new_tokens": 0}', "max_new_tokens"),
    "a prompt longer than the context": (json.dumps({"text": "ab cd " * 60}).encode(), "the model's context is 64"),
    "a prompt much longer than the context": (json.dumps({"text": "x" * 15_000}).encode(), "the model's context is 64"),
    "no UTF-8": (b'{"text": "\xff"}', ""),
    "half a surrogate pair": (b'{"text": "\\ud800"}', ""),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_wrong_request_is_400_and_says_where(client: TestClient, name: str) -> None:
    content, detail = BAD_BODIES[name]
    answer = client.post("/forward", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert body["title"] == "bad request"
    assert body["status"] == 400
    assert body["request_id"] == answer.headers["x-request-id"]
    assert detail in body["detail"]


def test_other_content_types_are_415(client: TestClient) -> None:
    for content_type in ("text/plain", "multipart/form-data; boundary=x", None):
        headers = {"Content-Type": content_type} if content_type else {}
        answer = client.post("/forward", content=b"hello", headers=headers)
        assert answer.status_code == 415
        assert answer.json()["title"] == "unsupported media type"


def test_a_body_over_the_limit_is_413_declared_or_not(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(10):
            yield b"x" * 10_000
        yield b'"}'

    for content in (b'{"text": "' + b"x" * 30_000 + b'"}', pieces()):
        answer = client.post("/forward", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == PROBLEM
        assert "larger" in answer.json()["detail"]


def test_unknown_routes_and_methods_are_problems(client: TestClient) -> None:
    assert client.get("/nothing").json()["status"] == 404
    answer = client.get("/forward")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert answer.headers["content-type"] == PROBLEM


def test_every_error_of_the_domain_has_its_line_in_the_table() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)}
    assert kinds - {errors.ServiceError} == set(STATUS_OF)
    expected = {
        errors.BadRequest: 400, errors.Unauthenticated: 401, errors.Forbidden: 403, errors.ModelFailure: 403,
        errors.NotFound: 404, errors.Conflict: 409, errors.TooLarge: 413, errors.UnsupportedMediaType: 415,
        errors.Overloaded: 429, errors.Unavailable: 503, errors.InsufficientStorage: 507,
    }  # fmt: skip
    for kind, status in expected.items():
        got, body, headers = problem_of(kind("a sentence"))
        assert (got, body["detail"]) == (status, "a sentence")
        assert ("Retry-After" in headers) == (status in (429, 503))


def test_a_failure_of_the_model_is_403_and_of_the_service_500_without_a_trace(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.app.state.live.current.engine  # type: ignore[attr-defined]
    for error, status, title in (
        (errors.ModelFailure("the model gave logits that are not finite"), 403, "model_failure"),
        (ZeroDivisionError("secret/path.py"), 500, "internal error"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(engine._loop._session, "run", fail)
        answer = client.post("/forward", json=PROMPT)
        assert (answer.status_code, answer.json()["title"]) == (status, title)
        assert "secret" not in answer.text
        streamed = client.post("/forward", json=PROMPT | {"stream": True})
        assert streamed.status_code == status
        monkeypatch.undo()
    assert post(client)["prediction"]


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.app.state.live.current.engine._loop._session  # type: ignore[attr-defined]
    run, calls = session.run, []

    def fail_later(rows: object) -> object:
        calls.append(rows)
        if len(calls) > 4:
            raise errors.ModelFailure("the runtime refused the input")
        return run(rows)

    monkeypatch.setattr(session, "run", fail_later)
    answer = client.post("/forward", json=PROMPT | {"stream": True})
    assert answer.status_code == 200
    last, problem = events(answer.text)[-1]
    assert (last, problem["status"], problem["title"]) == ("error", 403, "model_failure")


def test_keys_are_wanted_where_they_are_on(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_key": Settings(api_key="secret").api_key}))
    with TestClient(app) as client:
        refused = client.post("/forward", json=PROMPT)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/metadata", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.post("/forward", json=PROMPT, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health/ready").status_code == 200


def test_no_model_and_draining_are_503_with_a_time_to_come_back(settings: Settings) -> None:
    live = Live()
    client = TestClient(create_app(settings, live))
    for detail in ("no model is deployed yet", "the service is shutting down"):
        answer = client.post("/forward", json=PROMPT)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["detail"] == detail
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        live.drain()


def test_a_stuck_engine_is_not_alive(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/health/live").json() == {"status": "ok"}
    monkeypatch.setattr(client.app.state.live, "last_step_age_s", lambda: 11.0)  # type: ignore[attr-defined]
    answer = client.get("/health/live")
    assert answer.status_code == 503
    assert answer.json()["status"] == "stuck"


def test_metadata_are_those_of_the_loaded_file(client: TestClient, bundle: Path) -> None:
    body = client.get("/metadata").json()
    props = {entry.key: entry.value for entry in onnx.load(str(bundle / GRAPH_FILE)).metadata_props}
    for name in ("commit", "date", "experiment", "dataset_fingerprint", "tokenizer_sha256", "precision"):
        assert body[name] == props[name]
    assert body["sha256"] == load_manifest(bundle).files
    assert {"name": "input_ids", "type": "tensor(int64)", "shape": ["batch", "length"]} in body["inputs"]
    assert body["outputs"][0]["name"] == "logits"


def test_metrics_move_with_requests(client: TestClient) -> None:
    registry = client.app.state.telemetry.registry  # type: ignore[attr-defined]

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(name, labels) or 0.0

    names = [
        "ml_service_prompt_tokens_total", "ml_service_generation_tokens_total",
        "ml_service_time_to_first_token_seconds_count", "ml_service_e2e_request_latency_seconds_count",
        "ml_service_inter_token_latency_seconds_count", "ml_service_iteration_tokens_total_count",
    ]  # fmt: skip
    before = {name: value(name) for name in names}
    ended = value("ml_service_requests_finished_total", finish_reason="length")
    body = post(client, temperature=0)
    moved = {name: value(name) - before[name] for name in names}
    assert all(moved.values()), moved
    assert moved["ml_service_generation_tokens_total"] == body["usage"]["completion_tokens"]
    assert moved["ml_service_prompt_tokens_total"] == body["usage"]["prompt_tokens"]
    if body["finish_reason"] == "length":
        assert value("ml_service_requests_finished_total", finish_reason="length") == ended + 1
    text = client.get("/metrics").text
    assert 'ml_service_model_info{commit="' in text
    assert "ml_service_num_requests_running 0.0" in text
    assert 'http_requests_total{handler="/forward"' in text
    assert "process_resident_memory_bytes" in text


def test_the_documentation_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/").text  # leads to /docs while there is no page of our own
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/static/{asset}" in page
        assert client.get(f"/docs/static/{asset}").status_code == 200


def test_the_examples_of_the_openapi_document_work(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    examples = document["components"]["schemas"]["ForwardRequest"]["examples"]
    assert len(examples) >= 2
    for example in examples:
        assert client.post("/forward", json=example).status_code == 200
    assert set(document["paths"]["/forward"]["post"]["responses"]) >= {"200", "400", "403", "413", "415", "429", "503"}
    assert "422" not in document["paths"]["/forward"]["post"]["responses"]
