"""The app with two experiments and its client: a world for the tests of deployments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.common.settings import Settings
from ml_service.data.experiments import Experiments
from tests.test_http import PROMPT

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


@contextmanager
def opened_world(settings: Settings, bundle_fp32: Path) -> Iterator[World]:
    """The app with its first experiment answering and a second one that could."""
    settings = settings.model_copy(update={"watch_requests": 5, "max_waiting": 60, "worker": "separate"})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        world = World(client, settings)
        assert Experiments(world.database, settings.store).import_bundle(bundle_fp32, "tests").id == FP32
        yield world
