"""The samples: written as they are in the tree, and good for the routes that README shows them with."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import re
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.app import create_app
from ml_service.common.settings import PROJECT, Settings
from tests.samples import CODE, FOLDER, IMAGES, write_samples

TEXTS = ("prompts.csv", "pairs.csv", "prompts.jsonl")


def commands() -> list[list[str]]:
    """README's requests with a sample, up to the first pipe."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
    found = re.findall(r"^curl .*(?:/forward|/forward_batch|/evaluate) .*data/samples.*$", readme, re.MULTILINE)
    return [shlex.split(command.split("|")[0]) for command in found]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The app as it ships."""
    settings = Settings(store=tmp_path_factory.mktemp("shipped") / "store", slots=4, threads=1)
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[:100])
def test_the_requests_of_the_readme_work(shipped: TestClient, command: list[str]) -> None:
    files: dict[str, Any] = {}
    form: dict[str, str] = {}
    headers: dict[str, str] = {}
    for option, value in itertools.pairwise(command):
        name, _, content = value.partition("=")
        if option == "-F" and content.startswith("@"):
            path = PROJECT / content[1:]
            files[name] = (path.name, path.read_bytes())
        elif option == "-F":
            form[name] = content
        elif option == "-H":
            header, _, content = value.partition(": ")
            headers[header] = content
    (url,) = [word for word in command if word.startswith("localhost:8000/")]
    answer = shipped.post(url.removeprefix("localhost:8000"), files=files, data=form, headers=headers)
    assert answer.status_code == 200, answer.text
    if url.endswith("/evaluate"):
        report = answer.json()["report"]
        assert (report["failed"], report["count"] > 0) == (0, True)
        return
    assert '"prediction"' in answer.text
    assert '"error"' not in answer.text


def test_the_readme_shows_what_every_kind_of_sample_is_for() -> None:
    shown = " ".join(word for command in commands() for word in command)
    assert all(name in shown for name in ("code.png", "images.zip", *TEXTS))


def test_the_samples_are_what_the_script_writes(tmp_path: Path) -> None:
    write_samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in FOLDER.iterdir())
    for name in TEXTS:
        assert (FOLDER / name).read_bytes() == (tmp_path / name).read_bytes()
    with zipfile.ZipFile(FOLDER / "images.zip") as archive:
        labels = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
        assert sorted(archive.namelist()) == sorted(["labels.csv", *IMAGES])
    assert {row["image"]: row["target"] for row in labels} == {name: text for name, (text, _) in IMAGES.items()}


@pytest.mark.parametrize("name", ["prompts.csv", "prompts.jsonl"])
def test_the_prompts_are_answered(client: TestClient, name: str) -> None:
    answer = client.post(
        "/forward_batch", files={"file": (name, (FOLDER / name).read_bytes())}, data={"max_new_tokens": "4"}
    )
    rows = answer.raise_for_status().json()["predictions"]
    assert len(rows) >= 5
    assert not [row for row in rows if "error" in row]


def test_the_pictures_are_read_nearly_as_they_were_written(client: TestClient) -> None:
    form = {"max_new_tokens": "4"}
    archive = client.post("/forward_batch", files={"file": ("a.zip", (FOLDER / "images.zip").read_bytes())}, data=form)
    rows = {row["id"]: row["read"]["text"] for row in archive.raise_for_status().json()["predictions"]}
    assert list(rows) == list(IMAGES)
    for name, (text, _) in IMAGES.items():
        assert likeness(rows[name], text) > 0.95, rows[name]


def test_the_screenshot_of_code_is_read_in_order_with_its_indentation(client: TestClient) -> None:
    # The reader is asked itself: the tests' model has too little context for a continuation.
    reader = client.app.state.image_reader  # type: ignore[attr-defined]
    assert client.portal is not None
    reading = client.portal.call(reader.read, (FOLDER / "code.png").read_bytes())
    read, written = (lines_of(text) for text in (reading.text, CODE))
    assert [indentation(line) for line in read] == [indentation(line) for line in written]
    assert likeness("\n".join(read), "\n".join(written)) > 0.97, reading.text


def lines_of(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def likeness(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
