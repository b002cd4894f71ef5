"""The audit log has every change that a client can make, under the name of who made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.common.settings import Settings
from ml_service.data import audit
from ml_service.data.api_keys import ApiKeys
from ml_service.data.database import Database
from ml_service.data.experiments import Experiments
from tests.http_world import FP32, INT8
from tests.test_http import PROMPT
from tests.test_http_learning import SMALL, TEXTS

ASKS_ONLY = {"/forward", "/forward_batch", "/v1/completions", "/v1/chat/completions"}
"""What is answered and changes nothing."""


class Log:
    """What a request adds to the audit log."""

    def __init__(self, client: TestClient, database: Any, headers: dict[str, str]) -> None:
        self.client, self.database, self.headers = client, database, headers
        self.routes: set[tuple[str, str]] = set()

    def of(self, method: str, route: str, body: object = None, **ids: object) -> list[tuple[str, str, str]]:
        self.routes.add((method, route))
        last = max((event.id for event in audit.latest(self.database, 1)), default=0)
        answer = self.client.request(method, route.format(**ids), json=body, headers=self.headers)
        assert answer.status_code < 300, answer.text
        events = [event for event in audit.latest(self.database, 20) if event.id > last]
        return [(event.actor, event.action, event.target) for event in reversed(events)]


def test_every_change_is_in_the_log(settings: Settings, bundle_fp32: Path) -> None:
    settings = settings.model_copy(update={"keys": "required", "worker": "separate", "max_waiting": 60})
    settings = settings.model_copy(update={"evaluate_at_once_bytes": 0})
    app: Any = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        database = app.state.database
        secret = ApiKeys(database).create("ops", ["admin"], "tests").secret
        assert Experiments(database, settings.store).import_bundle(bundle_fp32, "tests").id == FP32
        log = Log(client, database, {"Authorization": f"Bearer {secret}"})

        assert log.of("POST", "/add_data", {"texts": TEXTS}) == [("ops", "data.add", "batch 1")]
        assert log.of("PUT", "/add_data", {"texts": [text[::-1] for text in TEXTS]})[0][:2] == ("ops", "data.add")
        wish = SMALL | {"experiment_name": "a"}
        ((who, what, target),) = log.of("POST", "/retrain", wish)
        assert (who, what) == ("ops", "retrain")
        experiment = int(target.split()[1])
        assert log.of("PUT", "/retrain", wish | {"experiment_name": "b"})[0][:2] == ("ops", "retrain")
        cancelled = log.of("POST", "/experiments/{experiment_id}/cancel", experiment_id=experiment)
        assert cancelled == [("ops", "cancel", target)]
        pinned = log.of("POST", "/experiments/{experiment_id}/pin", {"pinned": True}, experiment_id=INT8)
        assert pinned == [("ops", "pin", f"experiment {INT8}")]
        shadow = log.of("POST", "/deploy/{experiment_id}", {"strategy": "shadow"}, experiment_id=FP32)
        assert [each[0] for each in shadow] == ["ops"]
        assert [each[0] for each in log.of("DELETE", "/deploy/shadow")] == ["ops"]
        assert [each[0] for each in log.of("POST", "/deploy/{experiment_id}", experiment_id=FP32)] == ["ops"]
        assert [each[0] for each in log.of("POST", "/rollback")] == ["ops"]
        feedback = {"request_id": "x" * 128, "accepted": False, "prompt": "a", "correction": "b"}
        assert log.of("POST", "/feedback", feedback) == [("ops", "feedback", "feedback 1")]
        assert log.of("POST", "/feedback/export") == [("ops", "feedback export", "feedback")]
        log.headers = log.headers | {"Prefer": "respond-async"}
        assert log.of("POST", "/evaluate", {"texts": TEXTS}) == [("ops", "evaluate", "evaluation 1")]
        ended = log.of("POST", "/evaluations/{evaluation_id}/cancel", evaluation_id=1)
        assert ended == [("ops", "cancel", "evaluation 1")]
        assert log.of("POST", "/forward", PROMPT) == []

        paths = client.get("/openapi.json").json()["paths"]
        told = {(method.upper(), path) for path, methods in paths.items() for method in methods if method != "get"}
        changing = {(method, path) for method, path in told if path not in ASKS_ONLY}
        assert changing == log.routes - {("POST", "/forward")} | {("DELETE", "/deploy/canary")}
        count, problem = audit.verify(database)
        assert problem is None
        assert count > 15


def test_a_seal_that_was_kept_shows_that_the_end_was_left_out(database: Database) -> None:
    keys = ApiKeys(database)
    keys.create("a", ["infer"], "tests")
    (first,) = audit.latest(database, 1)
    keys.create("b", ["infer"], "tests")
    assert audit.has_seal(database, first.hash)
    assert not audit.has_seal(database, "0" * 64)
