"""A wish to retrain, followed by one id and in one trace: from the request through worker and stages to the swap."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tests.otlp_receiver import running_collector
from tests.test_process import Server
from tests.test_retraining import SMALL

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
WISH = {"X-Request-ID": "the-wish", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
_LONGEST_S = 600.0


@pytest.mark.slow
def test_a_wish_is_one_id_in_every_line_and_one_trace_from_request_to_swap(bundle: Path, tmp_path: Path) -> None:
    with running_collector() as collector:
        server = Server(
            bundle, slots="2", threads="1", training_threads="1", log_format="json", store=str(tmp_path),
            otlp_endpoint=collector.address,
        )  # fmt: skip
        try:
            experiment = _retrained(server)
        finally:
            code, errors = server.stop()
    assert code == 0, errors
    assert experiment["state"] == "succeeded", errors
    lines = [json.loads(line) for line in errors.splitlines()]
    by_process = {line["process"] for line in lines if line.get("request_id") == "the-wish"}
    assert {"server", "worker", "extract_data", "train_model", "inference_model"} <= by_process
    stages = [line for line in lines if line["process"] in ("extract_data", "train_model", "inference_model")]
    assert all(line["experiment"] == experiment["experiment_id"] and line["job"] for line in stages)
    spans = collector.of_trace(TRACE)
    names = {(span.process, span.name) for span in spans}
    assert {("server", "POST /retrain"), ("server", "queue retrain"), ("worker", "process retrain")} <= names
    assert {("worker", f"stage {phase}") for phase in ("extract", "train", "evaluate")} <= names
    assert {("train_model", "train"), ("train_model", "export"), ("inference_model", "score")} <= names
    assert {("worker", "process deploy"), ("worker", "prove model")} <= names
    assert {("server", "follow slot"), ("server", "swap models")} <= names
    ids = {span.span_id for span in spans}
    orphans = [span.name for span in spans if span.parent_id not in ids]
    assert orphans == ["POST /retrain"], "all the rest stands below the request"


def _retrained(server: Server) -> dict[str, object]:
    words = random.Random(1).sample([f"{a}{b}" for a in "abcdefghij" for b in "aeiou"], 20)
    texts = [" ".join(random.Random(n).choices(words, k=120)) + "\n" for n in range(60)]
    server.client.post("/add_data", json={"texts": texts}).raise_for_status()
    wish = {
        "budget": {"steps": 60}, "replay": 0.0, "hyperparameters": SMALL | {"learning_rate": 0.01},
        "deploy_if": {"old_worse_by": 1000.0},
    }  # fmt: skip
    asked = server.client.post("/retrain", json=wish, headers=WISH)
    assert asked.status_code == 202, asked.text
    wanted = asked.json()["experiment_id"]
    deadline = time.monotonic() + _LONGEST_S
    # Asked in a way that writes no line: nobody reads what the server says before its end.
    while time.monotonic() < deadline:
        metrics = server.client.get("/metrics").text
        if f'experiment_id="{wanted}"' in metrics:
            break
        time.sleep(0.5)
    listed = server.client.get("/experiments").raise_for_status().json()["experiments"]
    return next(each for each in listed if each["experiment_id"] == wanted)
