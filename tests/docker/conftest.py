"""The stack for its tests: built once, started from nothing, gone when they are over; figures in build/docker.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ml_service.common.settings import PROJECT
from tests.docker.stack import Stack, docker, has_engine

RESULTS = PROJECT / "build" / "docker.json"
IMAGES = ("ml-service:tests", "ml-service-page:tests")


class Figures(dict[str, Any]):
    """What was measured, by name; written when the tests are over."""


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    figures = Figures()
    yield figures
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


@pytest.fixture(scope="session")
def built(figures: Figures) -> None:
    """The images, from the tree as it is."""
    if not has_engine():
        pytest.skip("no Docker engine with compose answers here: `make test-docker` brings one up where it can")
    figures["build_s"] = round(Stack("ml-service-tests").build(), 1)
    for image in IMAGES:
        size_bytes = int(docker("image", "inspect", "--format", "{{.Size}}", image))
        figures[f"{image.partition(':')[0]}_mb"] = round(size_bytes / 1e6)


@pytest.fixture(scope="module")
def stack(built: None) -> Iterator[Stack]:  # noqa: ARG001
    """Not started yet."""
    stack = Stack("ml-service-tests")
    with stack.gone_afterwards():
        yield stack
