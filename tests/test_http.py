"""The HTTP contract: answers, streams, metadata, metrics that move, documentation."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from fastapi.testclient import TestClient

from ml_service.backend.schemas import ForwardDelta
from ml_service.common.bundle import GRAPH_FILE, load_manifest

PROMPT = {"text": "def value_total(count", "max_new_tokens": 12}


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
        "experiment_id": 1,
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
    for _, data in deltas:
        ForwardDelta.model_validate(data)


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


def test_metadata_are_those_of_the_loaded_file(client: TestClient, bundle: Path) -> None:
    body = client.get("/metadata").json()
    props = {entry.key: entry.value for entry in onnx.load(str(bundle / GRAPH_FILE)).metadata_props}
    for name in ("commit", "date", "experiment", "dataset_fingerprint", "tokenizer_sha256", "precision"):
        assert body[name] == props[name]
    assert body["sha256"] == load_manifest(bundle).files
    assert {"name": "input_ids", "type": "tensor(int64)", "shape": ["tokens"]} in body["inputs"]
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
    page = client.get("/docs").text
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
