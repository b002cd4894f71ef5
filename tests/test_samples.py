"""The samples: written as they are in the tree, shown by the pages (tests/docs tries that), read as they were made."""

from __future__ import annotations

import csv
import difflib
import io
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.docs.blocks import blocks_of, pages
from tests.samples import CODE, FOLDER, IMAGES, write_samples

TEXTS = ("prompts.csv", "pairs.csv", "prompts.jsonl")


def test_the_pages_show_what_every_kind_of_sample_is_for() -> None:
    shown = " ".join(block.text for page in pages() for block in blocks_of(page) if block.is_run)
    assert all(f"data/samples/{path.name}" in shown for path in FOLDER.iterdir())


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
