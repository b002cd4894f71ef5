"""Keys over HTTP: which scope each route takes, who is let in, under which name, how often, and from which site."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from ml_service.backend.app import create_app
from ml_service.backend.dependencies import _bucket
from ml_service.backend.door import HOLDER, Door
from ml_service.backend.errors import PROBLEM
from ml_service.backend.keyring import Keyring
from ml_service.common.scopes import SCOPES
from ml_service.common.settings import Settings
from ml_service.data import audit
from ml_service.data.api_keys import ApiKeys, Holder
from ml_service.data.database import now
from ml_service.utils.telemetry import Telemetry
from tests.test_http import PROMPT

NEEDS = {
    "infer": {
        "POST /forward", "POST /forward_batch", "POST /v1/completions", "POST /v1/chat/completions", "POST /feedback",
        "POST /evaluate", "GET /evaluations", "GET /evaluations/{evaluation_id}",
        "GET /evaluations/{evaluation_id}/rows.csv", "POST /evaluations/{evaluation_id}/cancel",
    },
    "data": {
        "POST /add_data", "PUT /add_data", "GET /datasets", "GET /datasets/{version}", "POST /feedback/export",
    },
    "train": {
        "POST /retrain", "PUT /retrain", "POST /experiments/{experiment_id}/cancel",
        "POST /experiments/{experiment_id}/pin",
    },
    "deploy": {"POST /deploy/{experiment_id}", "DELETE /deploy/shadow", "DELETE /deploy/canary", "POST /rollback"},
    "any": {
        "GET /v1/models", "GET /v1/models/{name}", "GET /metadata", "GET /metadata/{experiment_id}", "GET /experiments",
        "GET /experiments/compare", "GET /metrics/{experiment_id}", "GET /feedback", "GET /deployments",
        "GET /health/recent", "GET /metrics",
    },
    "none": {"GET /health", "GET /health/live", "GET /health/ready"},
}  # fmt: skip


class Guarded:
    """The app with keys on, and a key of each scope by its name."""

    def __init__(self, client: TestClient) -> None:
        self.client, self.app = client, client.app
        self.keys = ApiKeys(client.app.state.database)  # type: ignore[attr-defined]
        self.secrets = {scope: self.make(f"only-{scope}", scope) for scope in SCOPES}

    def make(self, name: str, *scopes: str, **more: Any) -> str:
        return self.keys.create(name, scopes, "tests", **more).secret

    def ask(self, route: str, key: str | None = None, **more: Any) -> httpx.Response:
        method, path = route.split()
        path = re.sub(r"\{\w+\}", "1", path).replace(
            "/deploy/1", "/deploy/999" if method == "POST" else "/deploy/canary"
        )
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = {} if method == "GET" or method == "DELETE" else {"json": {}}
        return self.client.request(method, path, headers=headers, **(body | more))


@pytest.fixture(scope="module")
def guarded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    settings = Settings(
        bundle=bundle, store=tmp_path_factory.mktemp("guarded"), slots=2, threads=1, keys="required",
        worker="separate",
    )  # fmt: skip
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield Guarded(client)


def test_the_document_says_which_scope_each_route_takes(guarded: Guarded) -> None:
    document = guarded.client.get("/openapi.json").json()
    told: dict[str, set[str]] = {name: set() for name in NEEDS}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            security = operation.get("security", [{"HTTPBearer": ["none"]}])
            assert len(security) == 1, f"{method} {path}: each is one of several ways in"
            told[(security[0]["HTTPBearer"] or ["any"])[0]].add(f"{method.upper()} {path}")
            if "security" in operation:
                assert {"401", "403", "429"} <= set(operation["responses"])
    assert told == NEEDS


@pytest.mark.parametrize("needed", [*SCOPES[:-1], "any"])
def test_each_route_takes_its_scope_and_no_other(guarded: Guarded, needed: str) -> None:
    for route in NEEDS[needed]:
        assert guarded.ask(route).status_code == 401
        for scope in SCOPES:
            answer = guarded.ask(route, guarded.secrets[scope])
            if needed in ("any", scope) or scope == "admin":
                assert answer.status_code not in (401, 403), f"{route} with {scope}: {answer.text}"
            else:
                assert answer.status_code == 403, f"{route} with {scope}: {answer.text}"
                told = answer.json().get("detail") or answer.json()["error"]["message"]
                assert told == f"the key only-{scope} lacks the scope `{needed}`, which this takes; it has {scope}"


def test_forms_take_the_same_scope_as_json(guarded: Guarded) -> None:
    for path in ("/forward", "/forward_batch", "/evaluate"):
        files = {"image" if path == "/forward" else "file": ("a.txt", b"def")}
        for secret in (None, guarded.secrets["data"]):
            answer = guarded.ask(f"POST {path}", secret, json=None, files=files)
            assert answer.status_code == (401 if secret is None else 403)


def test_health_docs_and_the_page_want_no_key(guarded: Guarded) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json", "/ui"):
        assert guarded.client.get(path).status_code == 200, path
    for path in ("/nothing", "/healthy", "/docs2", "/openapi.json/", "/uix", "/docsx/static"):
        assert guarded.client.get(path).status_code == 401, path


def test_who_is_not_let_in_is_told_why(guarded: Guarded) -> None:
    old = guarded.make("old", "infer", expires=now() - timedelta(minutes=1))
    lost = guarded.make("lost", "infer")
    guarded.keys.revoke("lost", "tests")
    known = guarded.secrets["infer"]
    for header, words in {
        None: "wants a key",
        "Bearer": "the key is not known",
        f"Basic {known}": "has to be `Bearer KEY`",
        f"Bearer {known}x": "the key is not known",
        f"Bearer {known[:-1]}": "the key is not known",
        "Bearer mls_ÿ": "the key is not known",
        f"Bearer {old}": "the key old has expired at",
        f"Bearer {lost}": "the key lost was revoked at",
    }.items():
        headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
        answer = guarded.client.post("/forward", json=PROMPT, headers=headers)
        assert answer.status_code == 401, header
        assert words in answer.json()["detail"]
        assert answer.headers["content-type"] == PROBLEM
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
    answer = guarded.client.post("/forward", json=PROMPT, headers={"Authorization": f"bearer   {known} "})
    assert answer.status_code == 200
    answer = guarded.client.post("/v1/completions", json={"model": "active", "prompt": "a"})
    assert answer.json()["error"]["type"] == "authentication_error"


def test_nobody_without_a_key_has_a_body_read(guarded: Guarded) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    head = {"type": "http", "method": "POST", "path": "/add_data", "headers": [(b"content-length", b"1000")]}
    door = Door(guarded.app, Keyring(None, guarded.keys), None, Telemetry(), expect_place=lambda: None)
    asyncio.run(door(head, receive, send))
    assert sent[0]["status"] == 401


def test_who_did_it_is_the_name_of_the_key(guarded: Guarded) -> None:
    texts = {"texts": ["a text of some length that nobody has sent before " * 3]}
    added = guarded.ask("POST /add_data", guarded.secrets["data"], json=texts)
    assert added.status_code == 200, added.text
    versions = guarded.ask("GET /datasets", guarded.secrets["data"]).json()["datasets"]
    assert "only-data" in str(versions[0])
    assert (
        guarded.ask("POST /experiments/{id}/pin", guarded.secrets["train"], json={"pinned": False}).status_code == 204
    )
    events = audit.latest(guarded.client.app.state.database, 10)  # type: ignore[attr-defined]
    assert ("only-train", "pin") in [(event.actor, event.action) for event in events]
    assert ("only-data", "data.add") in [(event.actor, event.action) for event in events]


def test_a_key_always_meets_the_same_model_and_the_environments_is_shared() -> None:
    def bucket(name: str | None) -> int:
        scope = {} if name is None else {HOLDER: Holder(name, frozenset())}
        return _bucket(type("Asked", (), {"scope": scope})())  # type: ignore[arg-type]

    assert len({bucket("a") for _ in range(5)}) == 1
    assert len({bucket(f"key-{number}") for number in range(50)}) > 10
    assert bucket("environment") == bucket(None)


def test_a_key_of_the_environment_may_do_everything_and_turns_keys_on(settings: Settings) -> None:
    settings = Settings(**settings.model_dump(exclude={"api_key"}), api_key="secret")
    assert settings.keys_are_on
    with TestClient(create_app(settings)) as client:
        assert client.get("/experiments").status_code == 401
        assert client.get("/experiments", headers={"Authorization": "Bearer secret"}).status_code == 200
        answer = client.post("/rollback", headers={"Authorization": "Bearer secret"})
        assert answer.status_code == 409
        made = ApiKeys(client.app.state.database).create("reader", ["infer"], "tests")  # type: ignore[attr-defined]
        answer = client.post("/rollback", headers={"Authorization": f"Bearer {made.secret}"})
        assert answer.status_code == 403
