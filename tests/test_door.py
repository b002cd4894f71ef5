"""The door: when keys are on, that there has to be one, how often one may ask, and which sites' pages may not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.backend.exposure import check_exposure
from ml_service.common.errors import BadRequest
from ml_service.common.rates import Rate
from ml_service.common.settings import Settings
from ml_service.data.api_keys import ApiKeys
from ml_service.data.database import Database, now
from ml_service.data.schema import migrate
from ml_service.inference.engine import Engine
from tests.http_world import FP32, opened_world


@pytest.mark.parametrize(
    ("given", "are_on"),
    [
        ({}, False), ({"host": "::1"}, False), ({"host": "127.0.0.5"}, False), ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True), ({"host": "::"}, True), ({"host": "192.0.2.1"}, True), ({"host": "box"}, True),
        ({"host": "0.0.0.0", "allow_open_network": True}, False), ({"keys": "required"}, True),
        ({"api_key": "x"}, True), ({"host": "0.0.0.0", "allow_open_network": True, "api_key": "x"}, True),
        ({"host": "0.0.0.0", "allow_open_network": True, "keys": "required"}, True),
    ],
)  # fmt: skip
def test_keys_are_on_beyond_loopback_or_where_that_is_said(given: dict[str, Any], are_on: bool) -> None:
    assert Settings(**given).keys_are_on is are_on


def test_where_keys_are_on_there_has_to_be_one(database_url: str | None, tmp_path: Path) -> None:
    def settings(**given: Any) -> Settings:
        return Settings(store=tmp_path, database_url=database_url, **given)

    check_exposure(settings())
    check_exposure(settings(host="0.0.0.0", allow_open_network=True))
    check_exposure(settings(host="0.0.0.0", api_key="x"))
    for open_to_all in (settings(host="0.0.0.0"), settings(keys="required")):
        with pytest.raises(BadRequest, match="ml-service keys create"):
            check_exposure(open_to_all)
    database = Database(database_url, tmp_path)
    migrate(database)
    ApiKeys(database).create("old", ["infer"], "tests", now() - timedelta(days=1))
    with pytest.raises(BadRequest, match="ALLOW_OPEN_NETWORK"):
        check_exposure(settings(host="0.0.0.0"))
    ApiKeys(database).create("first", ["infer"], "tests")
    check_exposure(settings(host="0.0.0.0"))
    check_exposure(settings(keys="required"))
    database.close()


FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, True),
        ({"origin": "http://testserver"}, True),
        ({"origin": "https://testserver"}, True),  # a proxy may have taken the TLS off
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://testserver:81"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://rewritten.example"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://testserver"}, False),
        ({"origin": "http://evil.example", "authorization": "Bearer x"}, True),
        ({"origin": "http://evil.example", "content-type": "application/json"}, True),
        ({"origin": "http://[", "sec-fetch-site": ""}, False),
    ],
)
def test_pages_of_other_sites_cannot_send_forms(client: TestClient, headers: dict[str, str], is_ours: bool) -> None:
    answer = client.post("/rollback", headers=headers)
    assert answer.status_code == (409 if is_ours else 403), answer.text
    assert client.get("/experiments", headers=headers).status_code == 200
    if not is_ours:
        assert "another web site" in answer.json()["detail"]
        assert client.post("/add_data", headers=FORM | headers, content=b"").status_code == 403


def test_who_asks_too_often_is_told_when_to_come_back(settings: Settings) -> None:
    settings = settings.model_copy(update={"rate_limit": "2/hour"})
    with TestClient(create_app(settings)) as client:
        answers = [client.get("/experiments") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=1", "r=0", "r=0"]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=2;w=3600'}
        assert answers[2].json()["title"] == "rate limited"
        assert 0 < int(answers[2].headers["retry-after"]) <= 3600
        assert answers[2].headers["ratelimit"].endswith(f";t={answers[2].headers['retry-after']}")
        for path in ("/health", "/health/ready", "/metrics", "/docs", "/openapi.json"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "ratelimit" not in answer.headers
        assert 'ml_service_admission_rejections_total{reason="rate_limit"} 1.0' in client.get("/metrics").text
        assert client.post("/v1/completions", json={}).json()["error"]["type"] == "rate_limit_error"


def test_who_would_get_no_place_is_told_before_the_body_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(settings)) as client:
        monkeypatch.setattr(Engine, "is_full", True)
        answer = client.post("/forward", content=b"{", headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["title"]) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        for path in ("/v1/completions", "/v1/chat/completions"):
            assert client.post(path, json={}).json()["error"]["code"] == "overloaded"
        assert client.post("/forward_batch", json={"requests": 1}).status_code == 400, "a batch waits for its turn"
        metrics = client.get("/metrics").text
        assert 'ml_service_admission_rejections_total{reason="queue_full"} 3.0' in metrics
        assert 'ml_service_requests_finished_total{finish_reason="rejected"} 3.0' in metrics
        assert 'http_requests_total{handler="/forward",method="POST",status="429"} 1.0' in metrics
        monkeypatch.undo()
        assert client.post("/forward", json={"text": "def ", "max_new_tokens": 1}).status_code == 200


def test_a_model_with_a_place_is_reached_beside_one_without(
    settings: Settings, bundle_fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_world(settings, bundle_fp32) as world:
        world.deploy(FP32, strategy="canary")
        full = world.app.state.live.current.engine
        monkeypatch.setattr(Engine, "is_full", property(lambda engine: engine is full))
        assert world.ask(model="canary")["model"]["experiment_id"] == FP32


def test_a_key_may_have_a_rate_of_its_own(settings: Settings) -> None:
    settings = settings.model_copy(update={"keys": "required"})
    with TestClient(create_app(settings)) as client:
        keys = ApiKeys(client.app.state.database)  # type: ignore[attr-defined]
        slow = {"Authorization": f"Bearer {keys.create('slow', ['infer'], 'tests', rate=Rate(1, 3600)).secret}"}
        free = {"Authorization": f"Bearer {keys.create('free', ['infer'], 'tests').secret}"}
        assert [client.get("/experiments", headers=slow).status_code for _ in range(2)] == [200, 429]
        assert [client.get("/experiments", headers=free).status_code for _ in range(3)] == [200] * 3
        assert "ratelimit" not in client.get("/experiments", headers=free).headers


def test_a_rate_that_is_none_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="such as 600/minute"):
        Settings(rate_limit="lots")
    assert Settings(rate_limit="600 / minute").rate_limit == "600/minute"
