"""Pictures in requests: `/forward` as JSON and as a form, whole and streamed; chats; what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.schemas import ForwardResponse
from ml_service.common.errors import Overloaded
from tests.fakes import PlainReader
from tests.test_http import PROMPT, events, post
from tests.test_http_data import END, FORM, part, staged

PICTURE = b"picture:def value_total(\n    count"
READ = "def value_total(\n    count"
SMALL = {"max_new_tokens": "6"}
pytestmark = pytest.mark.usefixtures("reader")


@pytest.fixture
def reader(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> PlainReader:
    reader = PlainReader()
    monkeypatch.setitem(client.app.state._state, "image_reader", reader)  # type: ignore[attr-defined]
    return reader


def in_json(picture: bytes = PICTURE, **changes: object) -> dict[str, object]:
    return {"image": base64.b64encode(picture).decode(), "max_new_tokens": 6} | changes


def ask(client: TestClient, **form: Any) -> Any:
    """A form; what is no option of the client is a field."""
    headers, files = form.pop("headers", None), form.pop("files", {"image": ("a.png", PICTURE)})
    return client.post("/forward", files=files, data={**SMALL, **form}, headers=headers)


def test_a_picture_is_answered_as_the_text_in_it(client: TestClient) -> None:
    plain = post(client, text=READ, max_new_tokens=6)
    in_lines = base64.encodebytes(PICTURE).decode()
    ways = [
        ask(client),
        client.post("/forward", json=in_json()),
        client.post("/forward", json=in_json(image=in_lines)),
        client.post("/forward", json=in_json(image="data:image/png;base64," + in_lines)),
        client.post("/forward", json=in_json(text=None)),
    ]
    for answer in ways:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        ForwardResponse.model_validate(body)
        assert body["prediction"] == plain["prediction"]
        assert body["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
        assert body["read"]["text"] == READ
        assert body["read"]["lines"][1] == {
            "text": "    count",
            "confidence": 0.9,
            "box": [[0, 0], [9, 0], [9, 9], [0, 9]],
        }
        assert "image" not in body
    assert not {"read", "image"} & set(plain)


@pytest.mark.parametrize("between", ["", "\n", " ", "\t"])
def test_the_picture_stands_behind_the_text_on_a_line_of_its_own(client: TestClient, between: str) -> None:
    expected = post(client, text=f"# total{between or chr(10)}{READ}", max_new_tokens=6)["prediction"]
    for answer in (
        ask(client, text=f"# total{between}"),
        client.post("/forward", json=in_json(text=f"# total{between}")),
    ):
        assert answer.json()["prediction"] == expected


def test_the_picture_comes_back_with_the_continuation_where_it_is_asked_for(client: TestClient) -> None:
    for answer in (
        ask(client, return_image="true"),
        ask(client, headers={"X-Return-Image": "true"}),
        client.post("/forward", json=in_json(return_image=True)),
    ):
        body = answer.json()
        assert base64.b64decode(body["image"]).decode() == f"drawn:{READ}{body['prediction']}"
    refused = client.post("/forward", json=PROMPT | {"return_image": True})
    assert refused.status_code == 400
    assert refused.json()["errors"] == [{"loc": "return_image", "msg": "no image came"}]


def test_a_stream_tells_first_what_was_read_and_ends_with_the_whole(client: TestClient) -> None:
    whole = ask(client, return_image="yes").json()
    for answer in (
        ask(client, return_image="1", stream="true"),
        ask(client, headers={"X-Stream": "true", "X-Return-Image": "on"}),
        client.post("/forward", json=in_json(return_image=True, stream=True)),
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        (first, told), *deltas, (last, done) = events(answer.text)
        assert (first, last) == ("read", "done")
        assert told == {"id": answer.headers["x-request-id"], "read": whole["read"]}
        assert "".join(data["delta"] for _, data in deltas) == done["prediction"] == whole["prediction"]
        assert (done["read"], done["image"]) == (whole["read"], whole["image"])


def test_options_come_as_fields_or_headers_and_a_field_wins(client: TestClient) -> None:
    sampled = post(client, text=READ, max_new_tokens=9, temperature=1.5, seed=4, n=2)
    headers = {"X-Max-New-Tokens": "3", "X-Temperature": "1.5", "X-N": "2"}
    body = ask(client, headers=headers, max_new_tokens="9", seed="4").json()
    assert body["answers"] == sampled["answers"]
    stopped = ask(client, stop=["a", "e"]).json()
    assert stopped["prediction"] == post(client, text=READ, max_new_tokens=6, stop=["a", "e"])["prediction"]
    assert ask(client, headers={"X-Request-Timeout": "soon"}).status_code == 400


def test_a_form_without_a_picture_is_a_text(client: TestClient) -> None:
    sent = part("text", str(PROMPT["text"]).encode()) + part("max_new_tokens", b"12") + END
    body = client.post("/forward", content=sent, headers={"Content-Type": FORM})
    assert body.json()["prediction"] == post(client)["prediction"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (part("image", b"<svg/>", "a.png"), 400, "no picture"),
        (part("image", b"picture:", "a.png"), 403, "no readable text"),
        (part("image", b"picture:" + b"x" * 10_000, "a.png"), 413, "too many pixels"),
        (part("image", b"picture:a"), 400, "image: a file with a name is wanted"),
        (2 * part("image", PICTURE, "a.png"), 400, "send one file as `image`: 2 came"),
        (part("file", PICTURE, "a.png"), 400, "file: unknown field"),
        (part("max_new_tokens", b"1"), 400, "text: Field required"),
        (2 * part("text", b"a"), 400, "text: it came 2 times"),
        (part("text", b"a") + part("tempreture", b"1"), 400, "tempreture: unknown field"),
        (part("text", b"a") + part("temperature", b"x"), 400, "temperature: Input should be a valid number"),
        (part("text", b"x" * 21_000), 400, "text: longer than 20,000 bytes"),
        (part("text", b"a") + part("return_image", b"true"), 400, "there is no image"),
        (part("text", "я".encode("cp1251")), 400, "text: not UTF-8"),
        (part("image", b"x" * 70_000, "a.png"), 413, "larger than 65,536 bytes"),
        (part("image", b"x" * 200_000, "a.png"), 413, "larger than"),
    ],
)
def test_a_form_that_is_wrong_is_told_and_leaves_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int, words: str
) -> None:
    settings = client.app.state.settings.model_copy(update={"max_image_bytes": 65_536})  # type: ignore[attr-defined]
    monkeypatch.setitem(client.app.state._state, "settings", settings)  # type: ignore[attr-defined]
    answer = client.post("/forward", content=body + END, headers={"Content-Type": FORM})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert staged(settings.store) == []


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"image": "nonsense!"}, 400, "image: not base64"),
        ({"image": "data:image/png,abc"}, 400, "image: a data URL has to be in base64"),
        ({"image": "https://example.org/a.png"}, 400, "fetches nothing"),
        ({"image": 7}, 400, "image: Input should be a valid string"),
        ({"image": None}, 400, "text: Field required"),
        ({"text": "x" * 30_000}, 413, "larger than 20,000 bytes, its images aside"),
    ],
)
def test_json_that_is_wrong_is_told(client: TestClient, changes: dict[str, object], status: int, words: str) -> None:
    answer = client.post("/forward", json=in_json(**changes))
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_a_picture_may_be_larger_than_other_bodies_and_a_text_may_not(client: TestClient) -> None:
    assert client.post("/forward", json=in_json(b"picture:" + b"x" * 50_000)).status_code == 413
    assert "too many pixels" in client.post("/forward", json=in_json(b"picture:" + b"x" * 50_000)).text
    text = client.post("/forward", json={"text": "x" * 50_000})
    assert text.status_code == 413
    assert "20,000 bytes" in text.json()["detail"]


def test_when_too_many_wait_the_answer_says_when_to_come_back(client: TestClient, reader: PlainReader) -> None:
    reader.errors = [Overloaded("too many pictures wait", retry_after_s=3)]
    answer = ask(client)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def chat(client: TestClient, *content: object, **changes: object) -> Any:
    body = {"model": "active", "messages": [{"role": "user", "content": list(content)}], "max_tokens": 5}
    return client.post("/v1/chat/completions", json=body | {"temperature": 0} | changes)


def image_part(url: str = "data:image/png;base64," + base64.b64encode(PICTURE).decode()) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def text_part(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


def test_in_a_chat_what_was_read_stands_in_the_pictures_place(client: TestClient) -> None:
    told = chat(client, text_part("Go "), text_part("on:"), image_part(), text_part("Now."))
    assert told.status_code == 200, told.text
    written = chat(client, text_part(f"Go on:\n{READ}\nNow."))
    assert told.json()["choices"] == written.json()["choices"]
    assert told.json()["usage"]["prompt_tokens"] == written.json()["usage"]["prompt_tokens"]
    streamed = chat(client, image_part(), stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ([image_part("https://example.org/a.png")], 400, "this service fetches nothing"),
        ([image_part("http://169.254.169.254/")], 400, "this service fetches nothing"),
        ([image_part("file:///etc/passwd")], 400, "this service fetches nothing"),
        ([image_part("data:image/png;base64,###")], 400, "image_url: not base64"),
        ([image_part("data:image/png;base64,PHN2Zy8+")], 400, "no picture"),
        ([{"type": "image_url", "image_url": "x"}], 400, "image_url"),
        ([{"type": "input_audio"}], 400, "input_audio"),
        (17 * [image_part("data:image/png;base64,")], 413, "at most 16 images"),
        ([text_part("x" * 30_000)], 413, "larger than 20,000 bytes"),
    ],
)
def test_what_a_chat_cannot_take_is_told_in_openais_shape(
    client: TestClient, content: list[object], status: int, words: str
) -> None:
    answer = chat(client, *content)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_the_documentation_names_both_kinds_of_body_with_examples_that_work(client: TestClient) -> None:
    content = client.get("/openapi.json").json()["paths"]["/forward"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    form = content["multipart/form-data"]
    assert {"image", "text", "max_new_tokens", "return_image", "stream", "n"} <= set(form["schema"]["properties"])
    assert "$ref" not in json.dumps(form)
    fields = b"".join(part(name, str(value).encode()) for name, value in form["example"].items())
    answer = client.post("/forward", content=fields + END, headers={"Content-Type": FORM})
    assert answer.status_code == 200, answer.text
