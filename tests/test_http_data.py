"""`/add_data` and `/datasets`: what a client sends, what it is told, and what is left when it goes."""

from __future__ import annotations

import errno
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from ml_service.backend import multipart_files
from ml_service.backend.app import create_app
from ml_service.backend.data_schemas import AddDataResponse, DatasetDetail, DatasetList
from ml_service.common.settings import Settings

WORDS = [f"word{number}" for number in range(3000)]
FORM = "multipart/form-data; boundary=edge"


def a_text(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def settings_of(bundle: Path, store: Path) -> Settings:
    return Settings(bundle=bundle, store=store, slots=1, threads=1, max_body_bytes=20_000, max_upload_bytes=200_000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "store"


@pytest.fixture(scope="module")
def client(bundle: Path, store: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings_of(bundle, store)), raise_server_exceptions=False) as client:
        yield client


def staged(store: Path) -> list[str]:
    folder = store / "datasets" / "staging"
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def is_emptied(store: Path) -> bool:
    """Whether nothing is staged any more, soon after an answer: a file lies there until all of it has been sent."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # it is being removed
            if not staged(store):
                return True
        time.sleep(0.002)
    return False


def test_texts_become_a_version_and_the_same_again_is_the_same(client: TestClient, store: Path) -> None:
    wish = {"texts": [a_text(1), {"text": a_text(2)}, " "], "name": "my-code", "licence": "MIT", "tags": ["a", "b"]}
    answer = client.post("/add_data", json=wish)
    assert answer.status_code == 200, answer.text
    body = AddDataResponse.model_validate(answer.json())
    assert (body.accepted, body.rejected, body.was_there, body.name) == (2, 1, False, "my-code")
    assert [(row.file, row.row, row.reason) for row in body.rejected_rows] == [("texts", 3, "empty")]
    again = client.put("/add_data", json=wish | {"name": "other"}).json()
    assert (again["was_there"], again["batch_id"]) == (True, body.batch_id)
    assert again["dataset_version"] == body.dataset_version
    assert again["message"] == f"already there: batch {body.batch_id}, version {body.dataset_version}"
    nothing = client.post("/add_data", json={"texts": [a_text(1)]}).json()
    assert (nothing["accepted"], nothing["duplicate"], nothing["dataset_version"]) == (0, 1, body.dataset_version)
    assert "nothing new in it (1 duplicate, 0 near duplicate)" in nothing["message"]
    assert staged(store) == []


def test_files_of_a_form_become_a_version_that_is_told_of(client: TestClient) -> None:
    files = [
        ("files", ("Notes 1.txt", a_text(10))),
        ("files", ("näive.jsonl", f"{json.dumps({'text': a_text(11)})}\nnonsense\n")),
        ("file", ("x.bin", b"\0\1")),
    ]
    sent = client.post("/add_data", files=files, data={"licence": "MIT", "tags": ["a, b", "c"]})
    assert sent.status_code == 200, sent.text
    added = sent.json()
    assert (added["accepted"], added["rejected"], added["name"]) == (2, 2, "notes-1")
    assert added["rejected_by_reason"] == {"malformed": 1, "unknown kind": 1}
    assert {(row["file"], row["row"]) for row in added["rejected_rows"]} == {("näive.jsonl", 2), ("x.bin", None)}
    newest, *older = DatasetList.model_validate(client.get("/datasets").json()).datasets
    assert newest.version == added["dataset_version"]
    assert newest.fingerprint == added["fingerprint"]
    assert newest.parent == (older[0].version if older else None)
    assert newest.sources["notes-1"].records == 2
    assert (newest.added.licence, newest.added.tags, newest.added.accepted) == ("MIT", ["a", "b", "c"], 2)
    assert newest.added.actor == "anonymous at testclient"
    detail = DatasetDetail.model_validate(client.get(f"/datasets/{newest.version}").json())
    assert sum(shard.records for shard in detail.shards) == detail.records == newest.records
    assert detail.report.rejected_by_reason == added["rejected_by_reason"]
    older_ones = client.get("/datasets", params={"before": newest.version, "limit": 1}).json()["datasets"]
    assert [version["version"] for version in older_ones] == [version.version for version in older[:1]]


def test_the_metrics_move(client: TestClient) -> None:
    def metric(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"ml_service_{name}"))

    names = [f'data_records_total{{result="{result}"}}' for result in ("accepted", "duplicate", "rejected")]
    before = [metric(name) for name in names]
    client.post("/add_data", json={"texts": [a_text(20), a_text(20), ""]})
    assert [metric(name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1]
    newest = client.get("/datasets").json()["datasets"][0]
    assert client.portal is not None
    client.portal.call(client.app.state.store_watch.look)  # type: ignore[attr-defined]
    for split, amount in newest["splits"].items():
        assert metric(f'dataset_records{{split="{split}"}}') == amount["records"]


def test_a_version_that_is_not_there_is_told_in_words(client: TestClient) -> None:
    answer = client.get("/datasets/999")
    assert answer.status_code == 404
    assert "there is no version 999 of the data set" in answer.json()["detail"]
    for path in ("/datasets/0", "/datasets/x", "/datasets?limit=0", "/datasets?before=x"):
        assert client.get(path).status_code == 400


def part(name: str, content: bytes, file_name: str | None = None) -> bytes:
    head = f'form-data; name="{name}"' + (f'; filename="{file_name}"' if file_name is not None else "")
    return f"--edge\r\nContent-Disposition: {head}\r\n\r\n".encode() + content + b"\r\n"


END = b"--edge--\r\n"
A_FILE = part("files", b"some text", "a.txt")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "words"),
    [
        ("application/json", b'{"texts": []}', 400, "texts: "),
        ("application/json", b'{"name": "a"}', 400, "texts: "),
        ("application/json", b'{"texts": ["a"], "x": 1}', 400, "x: unknown field"),
        ("application/json", b'{"texts": [1]}', 400, "texts"),
        ("application/json", b'{"texts": ["a"], "name": "A b"}', 400, "name: "),
        ("application/json", b'{"texts": ["a"], "licence": "a\\u0000b"}', 400, "licence: "),
        ("application/json", b"nonsense", 400, "not JSON"),
        ("application/json", b'{"texts": [" "]}', 400, "there is no usable text in it: 1 empty"),
        ("application/json", b'{"texts": ["' + b"x" * 30_000 + b'"]}', 413, "larger than 20,000 bytes"),
        ("text/plain", b"some text", 415, "not text/plain"),
        ("", b"", 415, "a body without a content type"),
        ("multipart/form-data", A_FILE + END, 400, "no boundary"),
        (FORM, END, 400, ""),
        (FORM, part("name", b"mine") + END, 400, "there is no file in it"),
        (FORM, part("other", b"x", "a.txt") + END, 400, "other: unknown field"),
        (FORM, part("texts", b"x") + END, 400, "texts: unknown field"),
        (FORM, part("files", b"x") + END, 400, "a file with a name is wanted"),
        (FORM, A_FILE + part("name", b"A b") + END, 400, "name: "),
        (FORM, A_FILE + part("name", b"\xff") + END, 400, "name: not UTF-8"),
        (FORM, A_FILE + part("licence", b"x" * 20_000) + END, 400, "licence: longer"),
        (FORM, A_FILE, 400, "ends before its last boundary"),
        (FORM, b"nonsense", 400, "cannot be read"),
        (FORM, part("files", b"x" * 200_000, "a.txt") + END, 413, "larger than 200,000 bytes"),
        (FORM, part("files", b"\0", "a.txt") + END, 400, "there is no usable text in it: 1 binary"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_leaves_nothing(
    client: TestClient, store: Path, content_type: str, body: bytes, status: int, words: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/add_data", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert staged(store) == []


def test_other_routes_keep_their_limit(client: TestClient) -> None:
    answer = client.post("/v1/completions", content=b"x" * 30_000, headers={"Content-Type": FORM})
    assert answer.status_code == 413


def test_the_same_key_is_the_same_answer_and_another_body_a_conflict(client: TestClient) -> None:
    headers, wish = {"Idempotency-Key": "one wish"}, {"texts": [a_text(30)]}
    first, second = (client.post("/add_data", json=wish, headers=headers) for _ in range(2))
    assert first.json()["batch_id"] == second.json()["batch_id"]
    assert second.json()["was_there"]
    other = client.post("/add_data", json={"texts": [a_text(31)]}, headers=headers)
    assert other.status_code == 409
    assert f"batch {first.json()['batch_id']}" in other.json()["detail"]
    headers, wish = {"Idempotency-Key": "a bad wish"}, {"texts": ["\t"]}
    answers = [client.post("/add_data", json=wish, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json()["detail"] == answers[1].json()["detail"]


def test_a_disk_without_room_is_507_before_and_while_it_is_written(
    client: TestClient, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        answer = client.post("/add_data", json={"texts": ["a"]})
        assert answer.status_code == 507
        assert "MB are free" in answer.json()["detail"]

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(multipart_files._FilePart, "add", fail)
        answer = client.post("/add_data", files={"files": ("a.txt", b"x")})
        assert answer.status_code == 507
    assert staged(store) == []


def test_the_documentation_names_both_kinds_of_body_with_an_example(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for method in ("post", "put"):
        operation = document["paths"]["/add_data"][method]
        content = operation["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        assert client.post("/add_data", json=content["application/json"]["example"]).status_code == 200
        assert {"400", "409", "413", "415", "507"} <= set(operation["responses"])


def test_an_intake_that_dies_is_503_and_the_same_upload_can_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ml_service.backend.intakes.COMMAND", ("/bin/false",))
        answer = client.post("/add_data", json={"texts": [a_text(40)]}, headers={"Idempotency-Key": "dies"})
    assert answer.status_code == 503
    assert "interrupted" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    again = client.post("/add_data", json={"texts": [a_text(40)]}, headers={"Idempotency-Key": "dies"})
    assert again.json()["accepted"] == 1
