"""`/forward_batch` with files: rows as in JSON, read as they are wanted; what is refused; nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lib.in_order import map_in_order, taken_in_a_thread
from ml_service.backend.batch_wishes import wishes_of
from ml_service.common.errors import Overloaded
from tests.archives import archive_of
from tests.fakes import PlainReader
from tests.test_http import post
from tests.test_http_data import END, is_emptied, part

NDJSON = {"Accept": "application/x-ndjson"}
CSV = b'\xef\xbb\xbfid,text,max_new_tokens\r\na,def value(,2\r\n,"def total(\r\n",\r\nc,,1\r\nd,x,many\r\n'


@pytest.fixture(autouse=True)
def reader(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> PlainReader:
    reader = PlainReader()
    monkeypatch.setitem(client.app.state._state, "image_reader", reader)  # type: ignore[attr-defined]
    return reader


def send(client: TestClient, name: str, content: bytes, headers: dict[str, str] | None = None, **form: Any) -> Any:
    answer = client.post("/forward_batch", files={"file": (name, content)}, data=form, headers=headers)
    assert is_emptied(client.app.state.settings.store)  # type: ignore[attr-defined]
    return answer


def rows_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    assert isinstance(rows, list)
    return rows


def lines(*rows: object) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def test_lines_of_json_are_answered_as_the_same_rows_in_json(client: TestClient) -> None:
    rows = ["def value(", {"text": "def total(", "id": "t", "max_new_tokens": 2}, {"txt": 1}, {"text": "a", "id": 7}, 7]
    shared = {"max_new_tokens": 5, "temperature": 1.0, "seed": 3, "stop": ["\n\n"]}
    as_json = rows_of(client.post("/forward_batch", json={"texts": rows} | shared))
    assert rows_of(send(client, "a.jsonl", lines(*map(json.dumps, rows)), max_new_tokens="5", temperature="1", seed="3",
                        stop='["\\n\\n"]')) == as_json  # fmt: skip
    headers = {"X-Max-New-Tokens": "9", "X-Temperature": "1.0", "X-Seed": "3", "X-Stop": '["\\n\\n"]'}
    by_header = rows_of(send(client, "A.JSONL", lines(*map(json.dumps, rows)), headers, max_new_tokens="5"))
    assert by_header == as_json
    assert [row["id"] for row in as_json] == ["0", "t", "2", "7", "4"]


def test_a_broken_line_fails_alone(client: TestClient) -> None:
    content = lines('"def value("', "{", "[" * 5_000, '"' + "ab cd " * 100 + '"') + b'"\xff"\n"\0"\n' + lines('"x"')
    rows = rows_of(send(client, "a.jsonl", content, max_new_tokens="2"))
    assert [row["id"] for row in rows] == [str(number) for number in range(7)]
    words = [None, "not JSON", "not JSON", "the model's context is 64", "not UTF-8", "NUL", None]
    for row, word in zip(rows, words, strict=True):
        assert ("prediction" in row) == (word is None)
        assert word is None or word in row["error"]


def test_a_row_of_a_file_has_no_schema_that_would_fill_the_memory(client: TestClient) -> None:
    large = {"text": "a", "id": "large", "json_schema": {"enum": [[]] * 10_000}}
    small = {"text": "a", "json_schema": {"type": "boolean"}}
    rows = rows_of(send(client, "a.jsonl", lines(large, small), max_new_tokens="9"))
    assert rows[0] == {"id": "large", "error": "json_schema: longer than 16,384 characters"}
    assert rows[1]["prediction"] in ("true", "false")
    shared = json.dumps({"type": "boolean", "examples": [True] * 3_000})
    assert rows_of(send(client, "a.txt", b"a", max_new_tokens="9", json_schema=shared))[0]["prediction"]


def test_a_table_has_a_column_of_texts_and_others_of_parameters(client: TestClient) -> None:
    rows = rows_of(send(client, "a.csv", CSV, max_new_tokens="4"))
    assert [row["id"] for row in rows] == ["a", "1", "c", "d"]
    assert rows[0]["prediction"] == post(client, text="def value(", max_new_tokens=2)["prediction"]
    assert rows[1]["prediction"] == post(client, text="def total(\r\n", max_new_tokens=4)["prediction"]
    assert "text: Field required" in rows[2]["error"]
    assert "max_new_tokens: Input should be a valid integer" in rows[3]["error"]


def test_every_line_of_a_text_is_a_prompt(client: TestClient) -> None:
    rows = rows_of(send(client, "a.txt", "def value(\r\n\r\nnaïve 日本".encode(), max_new_tokens="3"))
    texts = ["def value(", "", "naïve 日本"]
    assert [row["prediction"] for row in rows] == [
        post(client, text=text, max_new_tokens=3)["prediction"] for text in texts
    ]


def test_pictures_of_an_archive_are_read_and_continued_and_a_broken_one_fails_alone(
    client: TestClient, reader: PlainReader
) -> None:
    reader.errors = [Overloaded("too many pictures wait", retry_after_s=0)]
    content = archive_of(
        {
            "in/": b"",
            "in/a.png": b"picture:def value(",
            "b.PNG": b"<svg/>",
            "c.jpg": b"picture:",
            "notes.md": b"text",
            "labels.csv": b"image,target\n",
            "__MACOSX/in/._a.png": b"x",
            ".DS_Store": b"x",
            "d.webp": b"picture:def total(",
        }
    )
    rows = rows_of(send(client, "a.zip", content, max_new_tokens="3"))
    assert [row["id"] for row in rows] == ["in/a.png", "b.PNG", "c.jpg", "notes.md", "d.webp"]
    assert rows[0]["read"] == {"text": "def value("}
    assert rows[0]["prediction"] == post(client, text="def value(", max_new_tokens=3)["prediction"]
    assert [row.get("error") for row in rows[1:4]] == [
        "this is no picture that can be read", "there is no readable text in the image", "no image, by its name",
    ]  # fmt: skip
    assert rows[4]["read"]["text"] == "def total("


def test_a_picture_over_its_limit_or_damaged_in_the_archive_fails_alone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = client.app.state.settings.model_copy(update={"max_image_bytes": 1024})  # type: ignore[attr-defined]
    monkeypatch.setitem(client.app.state._state, "settings", settings)  # type: ignore[attr-defined]
    files = {"a.png": b"picture:a", "b.png": bytes(range(256)) * 8, "c.png": b"picture:" + b"damaged" * 9}
    content = archive_of(files, method=0).replace(b"damageddamaged", b"damageddamagee", 1)
    rows = rows_of(send(client, "a.zip", content, max_new_tokens="1"))
    assert rows[0]["read"] == {"text": "a"}
    assert rows[1]["error"] == "the image is larger than 1,024 bytes"
    assert rows[2]["error"].startswith("cannot be unpacked: Bad CRC-32")


def test_rows_come_as_lines_where_those_are_asked_for(client: TestClient) -> None:
    content = lines(*(json.dumps(f"def f{number}(") for number in range(50)))
    whole = rows_of(send(client, "a.jsonl", content, max_new_tokens="2"))
    answer = send(client, "a.jsonl", content, NDJSON, max_new_tokens="2")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line) for line in answer.text.splitlines()] == whole
    assert len(whole) == 50


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("a.csv", b"prompt,id\nx,1\n", 400, "a.csv: the table has no column `text`"),
        ("a.csv", b"text,tempreture\nx,1\n", 400, "unknown columns: tempreture"),
        ("a.csv", b"", 400, "no column `text`"),
        ("a.csv", b"text\n", 400, "there is no row in it"),
        ("a.csv", ",".join(f"c{number}" for number in range(1_000_000)).encode(), 400, "longer than 131,072 bytes"),
        ("a.csv", "text,id\nя,1\n".encode("utf-16"), 400, "the file is UTF-16: UTF-8 is wanted"),
        ("a.txt", "привет\n".encode("cp1251"), 400, "the file is not UTF-8"),
        ("a.txt", b"\0\1\2", 400, "NUL bytes"),
        ("a.jsonl", b"", 400, "there is no row in it"),
        ("a.jsonl", b"\n\n", 400, "there is no row in it"),
        ("a.parquet", b"PAR1", 400, ".jsonl, .csv or .txt, or a .zip of images"),
        ("a", b"x", 400, ".jsonl, .csv or .txt"),
        ("a.png", b"picture:a", 400, ".jsonl, .csv or .txt"),
        ("a.zip", b"PK nonsense", 400, "no readable zip archive"),
        ("a.zip", archive_of({"a.png": b"picture:a"})[:-30], 400, "no readable zip archive"),
        ("a.zip", archive_of({"labels.csv": b"x"}), 400, "the archive holds no images"),
        ("a.zip", archive_of({"../../evil.png": b"picture:a"}), 400, "evil.png: its name leads out of the archive"),
        ("a.zip", archive_of({"..\\evil.png": b"picture:a"}), 400, "its name leads out of the archive"),
        ("a.zip", archive_of({"bomb.png": bytes(30_000_000)}), 413, "bomb.png unpacks to more than 200 times"),
        ("a.zip", archive_of({f"{number}.png": b"" for number in range(10_001)}), 413, "more than 10,000 files"),
        ("../../evil.csv", b"id\n1\n", 400, "evil.csv: the table has no column"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_before_the_answer_begins(
    client: TestClient, name: str, content: bytes, status: int, words: str
) -> None:
    answer = send(client, name, content)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_form_that_is_none_of_ours_is_refused(client: TestClient) -> None:
    assert "temperature: " in send(client, "a.txt", b"x", temperature="-1").json()["detail"]
    assert "text: unknown field" in send(client, "a.txt", b"x", text="a").json()["detail"]
    two = client.post("/forward_batch", files=[("file", ("a.txt", b"x"))] * 2)
    assert "send one file as `file`: 2 came" in two.json()["detail"]
    assert client.post("/forward_batch", files={"image": ("a.png", b"x")}).status_code == 400


def test_rows_are_read_as_they_are_wanted_and_never_all() -> None:
    read: list[int] = []

    def rows() -> Iterator[str]:
        for number in range(100_000):
            read.append(number)
            yield "x"

    async def check() -> None:
        wishes = taken_in_a_thread(wishes_of(rows(), {}), 64)

        async def answer(wish: object) -> object:
            return wish

        answers = map_in_order(answer, wishes, 8)
        for _ in range(10):
            await anext(answers)
        assert len(read) <= 64
        await answers.aclose()
        await wishes.aclose()

    asyncio.run(check())
    assert len(read) <= 64


async def post_and_leave(app: Any, body: bytes, after_pieces: int) -> list[bytes]:
    """Send a form whole, take so many pieces of the answer and go."""
    sent, has_left, pieces = asyncio.Event(), asyncio.Event(), []
    head = [(b"content-type", b"multipart/form-data; boundary=edge"), (b"accept", b"application/x-ndjson")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/forward_batch", "raw_path": b"/forward_batch", "query_string": b"", "root_path": "",
        "headers": head, "client": ("here", 1), "server": ("there", 80),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        if not sent.is_set():
            sent.set()
            return {"type": "http.request", "body": body, "more_body": False}
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send_(message: Any) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            pieces.append(message["body"])
            if len(pieces) == after_pieces:
                has_left.set()

    await app(scope, receive, send_)
    return pieces


def test_a_client_who_leaves_within_the_answer_leaves_nothing(client: TestClient) -> None:
    app: Any = client.app
    file = lines(*(json.dumps(f"def f{number}(") for number in range(2_000)))
    body = part("file", file, "a.jsonl") + END
    assert client.portal is not None
    pieces = client.portal.call(post_and_leave, app, body, 3)
    assert 3 <= len(pieces) < 2_000
    assert is_emptied(app.state.settings.store)
    assert app.state.live.busy == 0


def test_the_documentation_tells_of_the_file(client: TestClient) -> None:
    content = client.get("/openapi.json").json()["paths"]["/forward_batch"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    form = content["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert {"file", "max_new_tokens", "stop", "seed"} <= set(form["properties"])
