"""The production override: keys and passwords from secret files, and nothing else is different."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ml_service.common.settings import PROJECT
from tests.docker.stack import Stack, docker, until

pytestmark = pytest.mark.docker
ASKED = {"text": "import os\n", "max_new_tokens": 8}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("production") / "secrets"
    subprocess.run([PROJECT / "deploy/make_secrets.sh", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def stack(built: None, secrets: Path) -> Iterator[Stack]:  # noqa: ARG001
    stack = Stack("ml-service-production", "docker-compose.production.yml", SECRETS=str(secrets))
    with stack.gone_afterwards():
        stack.up()
        yield stack


@pytest.fixture
def key(secrets: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {(secrets / 'ml_service_api_key').read_text().strip()}"}


def test_without_a_key_nothing_is_answered(stack: Stack) -> None:
    with stack.client() as client:
        for answer in (client.post("/forward", json=ASKED), client.get("/metrics"), client.post("/rollback", json={})):
            assert answer.status_code == 401, answer.text
        assert client.post("/forward", json=ASKED, headers={"Authorization": "Bearer"}).status_code == 401
        assert client.post("/forward", json=ASKED, headers={"Authorization": "Bearer none"}).status_code == 401
        assert client.get("/health/ready").status_code == 200
        assert client.get("/ui/").status_code == 200, "the page asks for the key"


def test_with_the_secret_key_it_is(stack: Stack, key: dict[str, str]) -> None:
    with stack.client(headers=key) as client:
        assert client.post("/forward", json=ASKED).status_code == 200
        assert client.post("/add_data", json={"texts": ["kept in the database of the secret"]}).status_code < 300


def test_a_key_of_fewer_scopes_is_made_in_the_container(stack: Stack) -> None:
    made = stack.execute("backend", "ml-service", "keys", "create", "robot", "--scope", "infer").split()[-1]

    with stack.client(headers={"Authorization": f"Bearer {made}"}) as client:
        until(lambda: client.post("/forward", json=ASKED).status_code == 200, "the new key")
        assert client.post("/add_data", json={"texts": ["not mine"]}).status_code == 403


def test_prometheus_has_the_key(stack: Stack) -> None:
    with httpx.Client(base_url=stack.prometheus_url) as prometheus:

        def healths() -> list[str]:
            return [target["health"] for target in prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]]

        until(lambda: healths() == ["up", "up"], "both targets")


def test_no_password_is_in_the_environment_of_a_container(stack: Stack, secrets: Path) -> None:
    known = [file.read_text().strip() for file in secrets.iterdir()]
    for container in stack.containers("backend") + stack.containers("worker") + stack.containers("db"):
        told = json.dumps(json.loads(docker("inspect", container)))
        assert not [secret for secret in known if secret in told]
        assert "ml_service:ml_service@" not in told


def test_the_service_knows_its_clients_through_a_proxy_before_it(stack: Stack, key: dict[str, str]) -> None:
    with stack.client(headers=key | {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}) as client:
        assert client.post("/forward", json=ASKED).status_code == 200
    assert '"client":"203.0.113.9"' in stack.compose("logs", "--no-log-prefix", "--no-color", "frontend")


def test_a_service_whose_key_is_lost_does_not_start(stack: Stack, tmp_path: Path) -> None:
    lost = tmp_path / "ml_service_api_key"
    lost.write_text("\n")
    words = ["run", "--rm", "--no-deps", "--volume", f"{lost}:/run/secrets/ml_service_api_key:ro", "backend", "serve"]
    told = subprocess.run(
        stack.command(*words), capture_output=True, text=True, env=stack.environment, timeout=60, cwd=PROJECT
    )
    assert told.returncode == 1
    assert "ml_service_api_key is empty" in told.stderr + told.stdout
