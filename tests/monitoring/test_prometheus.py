"""A real Prometheus asks a real server that has something to do: every panel and every rule is answered with data."""

from __future__ import annotations

import math
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_service.common.settings import PROJECT
from tests.monitoring.files import PROMETHEUS, RULES, alerts, panel_queries, selectors_in, substituted
from tests.monitoring.prometheus import Prometheus, wait_until
from tests.test_process import Server

pytestmark = pytest.mark.prometheus
SAMPLES = PROJECT / "data" / "samples"
AS_VLLM_NAMES_IT = 'ml_service_iteration_tokens_total non-counter metrics should not have "_total" suffix'
"""What people's dashboards of vLLM ask for is called so."""
WISH = {
    "budget": {"steps": 20}, "hyperparameters": {"window": 64, "batch_size": 8, "validation_tokens": 1024,
    "precision": "fp32", "checkpoints": 2}, "replay": 0.0, "experiment_name": "watched",
}  # fmt: skip


class Watched:
    """A server with work, what it was asked, and the Prometheus that looks on."""

    def __init__(self, server: Server, prometheus: Prometheus) -> None:
        self.server, self.prometheus = server, prometheus
        self.address = f"{server.client.base_url.host}:{server.client.base_url.port}"
        self.answers = 0
        self._ends = threading.Event()
        self._load = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> Watched:
        self._load.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._load.join()

    def _ask_on(self) -> None:
        shared = "def value_total(count, name):\n    return [count for count in name if count > 1]\n" * 3
        number = 0
        with httpx.Client(base_url=self.server.client.base_url, timeout=60) as client:
            while not self._ends.wait(0.1):
                number += 1
                body = {"text": f"{shared}{number}", "max_new_tokens": 30, "stream": number % 2 == 0}
                client.post("/forward", json=body).raise_for_status()
                self.answers += 1

    def post(self, path: str, **request: Any) -> dict[str, Any]:
        answer = self.server.client.post(path, timeout=120, **request)
        assert answer.status_code < 300, answer.text
        return dict(answer.json())

    def use_everything(self) -> dict[str, Any]:
        """A picture, data, feedback, a training, its deployment, evaluations; the last evaluation's scores."""
        picture = {"image": (SAMPLES / "code.png").read_bytes()}
        self.post("/forward", files=picture, data={"max_new_tokens": "4"})
        texts = [f"def name_{number}(path):\n    return path + {number * 7}\n" * 12 for number in range(120)]
        self.post("/add_data", json={"texts": [*texts, texts[0], ""], "name": "watched"})
        wait_until(lambda: self.prometheus.now('http_requests_total{handler="/add_data"}'), "the upload is seen")
        self.post("/add_data", json={"texts": ["There is a rate only of what has grown.\n" * 9], "name": "again"})
        answer = self.post("/forward", json={"text": "def value(", "max_new_tokens": 4})
        for accepted in (True, True, False):
            self.post("/feedback", json={"request_id": answer["id"], "accepted": accepted})
        experiment = self.post("/retrain", json=WISH)["experiment_id"]
        wait_until(lambda: self.state_of(experiment) in ("succeeded", "failed"), "the training is over", 1500)
        assert self.state_of(experiment) == "succeeded", self.server.client.get(f"/metrics/{experiment}").text
        self.post(f"/deploy/{experiment}", json={})
        self.post("/evaluate", json={"texts": texts[:3]})
        for name in ("labels.csv", "pairs.csv"):
            table = b"sentence,label\ndef a,1\nimport b,0\nreturn c,1\n"
            table = table if name == "labels.csv" else (SAMPLES / name).read_bytes()
            judged = self.post("/evaluate", files={"file": (name, table)}, data={"max_new_tokens": "8"})
        return dict(judged["metrics"])

    def state_of(self, experiment: int) -> str:
        return str(self.server.client.get(f"/metrics/{experiment}").json()["state"])

    def as_grafana_asks(self, expr: str) -> str:
        return substituted(expr, {"instance": ".*", "__rate_interval": "5s", "__range": "5m"})


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    server = Server(None, slots="4", threads="1", page="false", watch_s="0")
    address = f"{server.client.base_url.host}:{server.client.base_url.port}"
    prometheus = Prometheus(tmp_path_factory.mktemp("watching"), address, at_once=("TargetDown",))
    try:
        with Watched(server, prometheus) as watched:
            wait_until(lambda: prometheus.target()["health"] == "up", "Prometheus reaches the server")
            watched.scores = watched.use_everything()  # type: ignore[attr-defined]
            wait_until(lambda: prometheus.ever('ml_service_evaluation_score{metric="chrf"}'), "the scores are told")
            wait_until(lambda: prometheus.now("max(ml_service_active_generation) > 1"), "the deployment is told")
            yield watched
    finally:
        prometheus.close()
        server.kill()


def test_the_configuration_and_the_rules_are_right() -> None:
    for command in (["config", PROMETHEUS / "prometheus.yml"], ["rules", *RULES]):
        done = subprocess.run(["promtool", "check", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_are_silent_when_they_should() -> None:
    tests = sorted((PROMETHEUS / "tests").glob("*.yml"))
    done = subprocess.run(["promtool", "test", "rules", *tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(tests) >= 5


def test_the_metrics_are_named_as_they_should_be(watched: Watched) -> None:
    text = watched.server.client.get("/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.stdout + done.stderr).splitlines() == [AS_VLLM_NAMES_IT]


@pytest.mark.parametrize("query", [pytest.param(each, id=each.place) for each in panel_queries()])
def test_a_panels_query_is_answered_with_data(watched: Watched, query: Any) -> None:
    expr = watched.as_grafana_asks(query.expr)
    assert "$" not in expr
    values = [float(value) for series in watched.prometheus.ever(expr) for _, value in series["values"]]
    assert values, expr
    assert not any(math.isnan(value) for value in values), expr


def test_every_rule_is_evaluated_and_what_it_asks_for_is_there(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == alerts().keys()
    for rule in rules:
        assert rule["health"] == "ok", rule
        if rule["type"] == "recording":
            assert watched.prometheus.ever(rule["name"]), rule["name"]
        for selector in selectors_in(rule["query"]):
            asked = re.sub(r',status=~"5.."', "", selector)  # a healthy server has none of those
            assert watched.prometheus.ever(asked), f"{rule['name']}: {asked}"


def test_figures_are_what_they_should_be(watched: Watched) -> None:
    prometheus, client = watched.prometheus, watched.server.client
    newest = client.get("/datasets").json()["datasets"][0]
    for split, amount in newest["splits"].items():
        assert prometheus.now(f'ml_service_dataset_records{{split="{split}"}}') == [amount["records"]]
    for result in ("duplicate", "rejected"):
        assert prometheus.now(f'ml_service_data_records_total{{result="{result}"}}') == [1]
    assert prometheus.now('ml_service_feedback_total{verdict="accepted"}') == [2]
    assert prometheus.now('ml_service_images_total{result="read"}') == [1]
    (score,) = prometheus.now('ml_service_evaluation_score{metric="chrf"}')
    assert score == pytest.approx(watched.scores["chrf"])  # type: ignore[attr-defined]
    (asked,) = prometheus.now('sum(ml_service_requests_finished_total{finish_reason=~"stop|length"})')
    assert asked >= watched.answers * 0.9
    (hits,) = prometheus.now("ml_service_prefix_cache_hits_total / ml_service_prefix_cache_queries_total")
    assert hits > 0.5


def test_a_deployment_is_marked_when_it_was(watched: Watched) -> None:
    (query,) = [each for each in panel_queries() if each.place == "serving: annotation Deployments"]
    series = watched.prometheus.ever(query.expr)
    marked = {each["metric"]["experiment"]: float(each["values"][-1][1]) for each in series}
    (active,) = watched.prometheus.now("max(ml_service_active_since_timestamp_seconds)")
    assert marked["watched"] == pytest.approx(active * 1000)
    assert len(marked) == 2


def test_the_trainings_figures_came_while_it_ran_and_went(watched: Watched) -> None:
    for name in ("training_loss", "training_tokens_per_second", "training_heartbeat_age_seconds"):
        (series,) = watched.prometheus.ever(f"max(ml_service_{name})")
        assert all(float(value) >= 0 for _, value in series["values"])
        assert watched.prometheus.now(f"ml_service_{name}") == []
    (ages,) = watched.prometheus.ever("max(ml_service_training_heartbeat_age_seconds)")
    assert max(float(value) for _, value in ages["values"]) < 30


def test_no_alert_has_fired_while_all_was_well_and_one_does_when_the_server_is_killed(watched: Watched) -> None:
    """But for that of the machine's own disk, which the test does not have in its hands."""
    assert watched.prometheus.firing().keys() <= {"DiskLow"}
    assert watched.prometheus.ever('ALERTS{alertstate="firing", alertname!="DiskLow"}') == []
    watched._ends.set()
    watched._load.join()
    watched.server.process.kill()
    wait_until(lambda: "TargetDown" in watched.prometheus.firing(), "somebody is told")
    told = watched.prometheus.firing()["TargetDown"]
    assert told["summary"] == f"Server {watched.address} does not answer"
    assert re.search(r"docs/runbook.md#targetdown$", told["runbook"])


def test_with_keys_prometheus_is_let_in_by_the_key_in_its_file(tmp_path: Path) -> None:
    server = Server(None, slots="1", threads="1", page="false", api_key="a-key-of-the-test")
    address = f"{server.client.base_url.host}:{server.client.base_url.port}"
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    let_in = Prometheus(tmp_path / "one", address, key="a-key-of-the-test")
    locked_out = Prometheus(tmp_path / "other", address)
    try:
        wait_until(lambda: let_in.target()["health"] == "up", "the key is taken")
        wait_until(lambda: locked_out.target()["health"] == "down", "`none` is not")
        assert "401" in locked_out.target()["lastError"]
    finally:
        let_in.close()
        locked_out.close()
        server.kill()
