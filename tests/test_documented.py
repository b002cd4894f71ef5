"""The OpenAPI document tells the truth: its references, its examples, and the errors of each route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_service.backend.errors import PROBLEM
from ml_service.common.settings import Settings
from tests.http_world import FP32, INT8, World, opened_world

Node = dict[str, Any]


@pytest.fixture(scope="module")
def world(bundle: Path, bundle_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = Settings(bundle=bundle, store=tmp_path_factory.mktemp("documented") / "store", slots=4, threads=1)
    with opened_world(settings, bundle_fp32) as world:
        yield world


@pytest.fixture(scope="module")
def document(world: World) -> Node:
    return dict(world.client.get("/openapi.json").json())


def operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, of_path in document["paths"].items():
        for method, operation in of_path.items():
            yield method, path, operation


def resolved(document: Node, node: Node) -> Node:
    while "$ref" in node:
        found = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def test_every_reference_leads_somewhere(document: Node) -> None:
    text = json.dumps(document)
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    assert len(references) > 50
    for reference in references:
        assert resolved(document, {"$ref": reference})
    assert "$defs" not in text
    assert "ml_service__" not in text  # two models of one name: the framework makes such names of them
    assert "HTTPValidationError" not in text


def test_every_route_tells_of_its_errors_as_they_are_answered(document: Node) -> None:
    for method, path, operation in operations(document):
        answers = operation["responses"]
        where = f"{method} {path}"
        if "security" in operation:
            assert {} in operation["security"], "no key is wanted where keys are off"
            assert {"401", "403", "429", "503"} <= set(answers), where
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(answers), where
        if "{" in path:
            assert {"400", "404"} <= set(answers), where
        for status, answer in answers.items():
            told = resolved(document, answer)
            assert "X-Request-ID" in told["headers"], where
            if int(status) >= 400 and not path.startswith("/health"):
                shape = ("application/json", "OpenAIError") if path.startswith("/v1/") else (PROBLEM, "Problem")
                assert told["content"][shape[0]]["schema"]["$ref"].endswith(f"/{shape[1]}"), where
            if status in ("429", "503") and not path.startswith("/health"):
                assert "Retry-After" in told["headers"], where


def test_no_two_paths_are_the_same_but_for_a_name(document: Node) -> None:
    paths = [re.sub(r"\{[^}]*\}", "{}", path) for path in document["paths"]]
    assert len(paths) == len(set(paths))


def test_content_types_are_those_that_are_answered(document: Node) -> None:
    types = {
        (path, kind) for _, path, operation in operations(document)
        for status, answer in operation["responses"].items() if status == "200" for kind in answer["content"]
    }  # fmt: skip
    assert types >= {
        ("/forward", "text/event-stream"), ("/forward_batch", "application/x-ndjson"), ("/metrics", "text/plain"),
        ("/v1/completions", "text/event-stream"), ("/v1/chat/completions", "text/event-stream"),
        ("/metrics/{experiment_id}", "text/event-stream"), ("/evaluations/{evaluation_id}/rows.csv", "text/csv"),
    }  # fmt: skip
    assert ("/metrics", "application/json") not in types


def examples_of(document: Node, operation: Node) -> Iterator[tuple[str, Any]]:
    """(content type, example) of a body, whether it stands at the content or at its schema."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        if "example" in content:
            yield kind, content["example"]
        schema = content["schema"]
        for choice in (schema, *schema.get("anyOf", [])):
            for example in resolved(document, choice).get("examples", []):
                yield kind, example


def test_every_example_works_when_pasted(world: World, document: Node) -> None:
    posted = set()
    world.client.post("/add_data", json={"texts": [f"value {n} of the total count" for n in range(400)]})
    for method, path, operation in operations(document):
        if "requestBody" not in operation:
            continue
        examples = list(examples_of(document, operation))
        assert examples, f"{method} {path} has no example"
        for kind, example in examples:
            as_form = {"files": {name: (None, str(value)) for name, value in example.items()}}
            body = {"json": example} if kind == "application/json" else as_form
            which = FP32 if "strategy" in example else INT8  # nothing is tried beside itself
            answer = world.client.request(method, path.replace("{experiment_id}", str(which)), **body)  # type: ignore[arg-type]
            assert str(answer.status_code) in operation["responses"], (path, example, answer.text)
            assert answer.status_code < 300, (path, example, answer.text)
            posted.add(path)
    assert len(posted) >= 9


def test_the_page_finds_its_example_of_texts(document: Node) -> None:
    (example,) = document["components"]["schemas"]["EvaluateRequest"]["examples"]
    assert example["texts"][0].strip()
    for name in ("ForwardRequest", "RetrainRequest"):
        assert document["components"]["schemas"][name]["properties"]
