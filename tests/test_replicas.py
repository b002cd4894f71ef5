"""Serving processes and the slot: what answers after a start, when files are damaged, in three processes at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from ml_service.backend.app import create_app
from ml_service.cli import app
from ml_service.common.bundle import GRAPH_FILE, bundle_sha256
from ml_service.common.errors import BundleRefused, Conflict
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.deployments import Deployments, Order
from ml_service.data.experiments import Experiments
from ml_service.data.schema import migrate
from ml_service.inference.live import open_live_model
from ml_service.pipeline.deploy import Deployer, in_words
from ml_service.utils.telemetry import Telemetry
from tests.databases import Cluster
from tests.test_cli import cli
from tests.test_http import PROMPT
from tests.test_process import Server


class Store:
    """A store with copies of two bundles that may be damaged; experiment 1 is in 8 bit, 2 in fp32."""

    def __init__(self, root: Path, bundles: list[Path], settings: Settings, url: str | None = None) -> None:
        self.settings = settings.model_copy(update={"store": root, "bundle": None, "worker": "separate"})
        self.bundles = [Path(shutil.copytree(each, root / "mine" / each.name)) for each in bundles]
        self.database = Database(url, root)
        migrate(self.database)
        self.experiments, self.deployments = Experiments(self.database, root), Deployments(self.database)
        for each in self.bundles:
            self.experiments.import_bundle(each, "tests")
        self.deployer = Deployer(self.database, self.settings)

    def deploy(self, experiment_id: int, **changes: Any) -> int | None:
        return self.deployer.deploy(Order(experiment_id, "tests", "because", **changes)).generation

    def damage(self, experiment_id: int) -> None:
        graph = self.bundles[experiment_id - 1] / GRAPH_FILE
        graph.write_bytes(graph.read_bytes()[:-1])

    def serve(self, bundle: Path | None = None) -> TestClient:
        return TestClient(create_app(self.settings.model_copy(update={"bundle": bundle})))


@pytest.fixture
def store(tmp_path: Path, bundle: Path, bundle_fp32: Path, settings: Settings) -> Iterator[Store]:
    store = Store(tmp_path / "store", [bundle, bundle_fp32], settings)
    yield store
    store.database.close()


def model_of(client: Any) -> tuple[int, int]:
    model = client.post("/forward", json=PROMPT | {"max_new_tokens": 1}).raise_for_status().json()["model"]
    return model["experiment_id"], model["generation"]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_was_deployed_answers_after_a_restart_unless_another_is_given(store: Store) -> None:
    store.deploy(1)
    with store.serve() as client:
        assert model_of(client) == (1, 1)
        client.post("/deploy/2").raise_for_status()
    with store.serve() as client:
        assert model_of(client) == (2, 2)
    for _ in range(2):  # given once more it is what answers already
        with store.serve(store.bundles[0]) as client:
            assert model_of(client) == (1, 3)
    slot = store.deployments.slot()
    assert slot.active is not None
    assert (slot.active.reason, slot.active.actor) == ("given at start", "start")


def test_a_process_without_a_model_proves_deploys_and_rolls_back(store: Store) -> None:
    assert store.deploy(1, key="a") == store.deploy(1, key="a") == 1
    assert store.deploy(2) == 2
    assert in_words(store.deployer.roll_back("tests")) == "generation 3: experiment 1 answers again"
    store.damage(2)
    with pytest.raises(BundleRefused, match="not the file that the manifest describes"):
        store.deploy(2)
    assert store.deployments.generation() == 3


def test_a_rollback_passes_over_what_cannot_be_opened(store: Store) -> None:
    for experiment_id in (1, 2, 1):
        store.deploy(experiment_id)
    store.damage(2)
    back = store.deployer.roll_back("tests", "worse")
    assert back.experiment_id == 1
    assert back.reason.startswith("rollback of generation 3: worse; generation 2 is passed over: model.onnx is not")
    shutil.rmtree(store.bundles[0])
    with pytest.raises(Conflict, match="nothing before generation 4"):
        store.deployer.roll_back("tests")


def test_where_the_active_bundle_is_damaged_the_one_before_stands_in(store: Store) -> None:
    store.deploy(1)
    store.deploy(2)
    store.damage(2)
    with store.serve() as client:
        assert model_of(client) == (1, 1)
        ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["detail"].startswith("generation 2 cannot be opened: model.onnx is not the file")
        until(lambda: bool(client.get("/deployments").json()["replicas"]))
        (replica,) = client.get("/deployments").json()["replicas"]
        assert (replica["state"], replica["generation"]) == ("behind", 0)
        store.deploy(1)
        until(lambda: model_of(client) == (1, 3))
        assert client.get("/health/ready").json() == {"status": "ok"}
    store.damage(1)
    with pytest.raises(BundleRefused, match="nor can any before it"), store.serve():
        pass


def test_a_replica_that_cannot_load_keeps_what_it_has_and_says_so(store: Store) -> None:
    store.deploy(1)
    with store.serve() as client:
        store.deploy(2)
        store.damage(2)
        until(lambda: client.get("/health/ready").json().get("detail") is not None or model_of(client) == (2, 2))
        if model_of(client) == (1, 1):  # it looked after the damage
            assert "cannot be opened" in client.get("/health/ready").json()["detail"]
        assert client.post("/rollback").json()["replicas"] == {"loaded": 1, "of": 1}
        assert model_of(client) == (1, 3)


def test_the_verbs_change_the_store_and_a_running_server_follows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.deploy(1)
    monkeypatch.setenv("ML_SERVICE_STORE", str(store.settings.store))
    with store.serve() as client:
        assert verb("deploy", "2", "--reason", "by hand") == "generation 2: experiment 2 answers\n"
        until(lambda: model_of(client) == (2, 2), 5)
        assert verb("deploy", "1", "--strategy", "canary", "--percent", "5").endswith("is the canary\n")
        assert verb("rollback", "--only", "canary") == "experiment 1 is no canary any more\n"
        assert verb("rollback") == "generation 5: experiment 1 answers again\n"
        until(lambda: model_of(client) == (1, 5), 5)
        told = verb("deployments")
        assert [line.split()[:2] for line in told.splitlines()[1:5]] == [
            ["5", "active"], ["3", "retired"], ["2", "retired"], ["1", "retired"],
        ]  # fmt: skip
        assert "by hand" in told
        assert told.splitlines()[-1].endswith("has it")
    assert "there is no experiment 9" in cli("deploy", "9", code=1)


def verb(*words: str) -> str:
    """A verb in this process: it takes a second less."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.slow
def test_three_replicas_on_one_database_converge_and_outlive_it(
    tmp_path: Path, bundle: Path, bundle_fp32: Path, settings: Settings
) -> None:
    cluster = Cluster()
    url = cluster.create()
    store = Store(tmp_path / "store", [bundle, bundle_fp32], settings, url)
    variables = {"store": str(store.settings.store), "database_url": url, "slots": "2", "threads": "1"}
    servers: list[Server] = []
    try:
        servers += [Server(bundle, worker="separate", **variables) for _ in range(3)]
        assert [model_of(server.client) for server in servers] == [(1, 1)] * 3
        until(lambda: len(servers[0].client.get("/deployments").json()["replicas"]) == 3)
        done = servers[0].client.post("/deploy/2").raise_for_status().json()["replicas"]
        assert done["of"] == 3
        assert 1 <= done["loaded"] <= 3
        until(lambda: [model_of(server.client) for server in servers] == [(2, 2)] * 3, 5)
        again = {"headers": {"Idempotency-Key": "k"}}
        until(lambda: servers[1].client.post("/deploy/2", **again).json()["replicas"] == {"loaded": 3, "of": 3})
        cluster.stop()
        for server in servers:
            assert model_of(server.client)[0] == 2
            assert server.client.post("/rollback").status_code == 503
            assert server.client.get("/health/ready").status_code == 200
        cluster.start()
        until(lambda: servers[2].client.post("/deploy/1").status_code == 200)
        until(lambda: {model_of(server.client) for server in servers} == {(1, 4)}, 8)
        assert servers[0].stop()[0] == 0
        until(lambda: len(servers[1].client.get("/deployments").json()["replicas"]) == 2)
    finally:
        for server in servers:
            server.kill()
        store.database.close()
        cluster.close()


def test_a_bundle_is_known_by_what_its_manifest_says(bundle: Path, settings: Settings) -> None:
    model = open_live_model(bundle, settings, Telemetry())
    assert model.sha256 == bundle_sha256(bundle)
    model.engine.stop()
