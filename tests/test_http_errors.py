"""Every error of the contract's table, provoked."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_service.backend.app import create_app
from ml_service.backend.errors import PROBLEM, STATUS_OF, problem_of
from ml_service.backend.schemas import ForwardRequest
from ml_service.common import errors
from ml_service.common.settings import Settings
from ml_service.inference.handles import Live
from tests.test_http import PROMPT, events, post

BAD_BODIES = {
    "not JSON": (b"{", "not JSON"),
    "no object": (b"[]", "valid dictionary"),
    "no text": (b"{}", "text: Field required"),
    "a mistyped text": (b'{"text": 3}', "text: Input should be a valid string"),
    "an unknown field": (b'{"text": "a", "tempreture": 1}', "tempreture: unknown field"),
    "a parameter out of range": (b'{"text": "a", "temperature": -1}', "temperature: Input should be greater"),
    "an infinite parameter": (b'{"text": "a", "temperature": Infinity}', "temperature"),
    "an empty stop string": (b'{"text": "a", "stop": [""]}', "stop.0"),
    "less than no tokens": (b'{"text": "a", "max_new_tokens": -1}', "max_new_tokens"),
    "a bias for no token": (b'{"text": "a", "logit_bias": {"99999": 1}}', "logit_bias: there is no token 99999"),
    "a stop at no token": (b'{"text": "a", "stop_token_ids": [99999]}', "stop_token_ids: there is no token 99999"),
    "a broken expression": (b'{"text": "a", "regex": "[a-"}', "regex cannot be used"),
    "a schema that is none": (b'{"text": "a", "json_schema": {"type": "objet"}}', "json_schema cannot be used"),
    "two constraints": (b'{"text": "a", "json_schema": {}, "regex": "a"}', "not both"),
    "more answers than places": (b'{"text": "a", "n": 9}', "more than the 8 places"),
    "a prompt longer than the context": (json.dumps({"text": "ab cd " * 60}).encode(), "the model's context is 64"),
    "a prompt much longer than the context": (json.dumps({"text": "x" * 15_000}).encode(), "the model's context is 64"),
    "no UTF-8": (b'{"text": "\xff"}', ""),
    "half a surrogate pair": (b'{"text": "\\ud800"}', ""),
    "half a pair as a field": (b'{"text": "a", "\\ud800": 1}', "unable to parse raw data"),
    "half a pair in a schema": (b'{"text": "a", "json_schema": {"a": "\\ud800"}}', "json_schema cannot be used"),
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


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(ForwardRequest.model_fields)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*FIELDS, "else"]), JSON_VALUES, max_size=5), st.text(max_size=8))
def test_no_json_is_ever_an_error_of_the_service(client: TestClient, fields: dict[str, object], text: str) -> None:
    body = json.dumps({"text": text, "max_new_tokens": 2} | fields)
    answer = client.post("/forward", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400), answer.text
    assert answer.headers["content-type"].split(";")[0] in ("application/json", "text/event-stream", PROBLEM)


def test_other_content_types_are_415(client: TestClient) -> None:
    for route in ("/forward", "/forward_batch", "/v1/completions"):
        for content_type in ("text/plain", "multipart/mixed; boundary=x", None):
            headers = {"Content-Type": content_type} if content_type else {}
            answer = client.post(route, content=b"hello", headers=headers)
            assert answer.status_code == 415
            assert "unsupported media type" in answer.text or "unsupported_media_type" in answer.text


def test_a_body_over_the_limit_is_413_declared_or_not(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(10):
            yield b"x" * 10_000
        yield b'"}'

    def refused() -> float:
        labels = {"handler": "/forward", "method": "POST", "status": "413"}
        registry = client.app.state.telemetry.registry  # type: ignore[attr-defined]
        return registry.get_sample_value("http_requests_total", labels) or 0.0

    before = refused()
    for content in (b'{"text": "' + b"x" * 30_000 + b'"}', pieces()):
        answer = client.post("/forward", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == PROBLEM
        assert "larger" in answer.json()["detail"]
    assert refused() - before == 2


def test_unknown_routes_and_methods_are_problems(client: TestClient) -> None:
    assert client.get("/nothing").json()["status"] == 404
    answer = client.get("/forward")
    assert answer.status_code == 405
    assert answer.headers["content-type"] == PROBLEM
    for path, methods in (
        ("/forward", "POST"), ("/add_data", "POST, PUT"), ("/feedback", "GET, POST"), ("/metrics", "GET"),
        ("/deploy/canary", "POST, DELETE"), ("/deploy/1", "POST"), ("/v1/models/a/b", "GET"),
    ):  # fmt: skip
        answer = client.patch(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


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


def test_a_full_disk_is_507_wherever_it_shows() -> None:
    status, body, _ = problem_of(OSError(errno.ENOSPC, "No space left on device", "/secret/path"))
    assert (status, body["detail"]) == (507, "the disk is full")


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
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
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
        for route, field in (("/forward", "image"), ("/forward_batch", "file")):
            assert client.post(route, files={field: ("a.txt", b"x")}).status_code == 401
        assert not (settings.store / "datasets" / "staging").exists()
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
