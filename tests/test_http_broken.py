"""Broken input by the hundred, over every way in: each is told in a sentence, and no file is left."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ml_service.backend.app import create_app
from ml_service.common.settings import Settings
from tests.archives import archive_of
from tests.broken_pictures import BROKEN, GIF, JPEG, PNG
from tests.test_http_data import END, FORM, is_emptied, part


@pytest.fixture(scope="module")
def client(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = tmp_path_factory.mktemp("broken") / "store"
    settings = Settings(bundle=bundle, store=store, slots=4, threads=1, max_upload_bytes=10_000_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def is_told(client: TestClient, answer: Any, detail: str) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert len(detail.split()) >= 3, detail
    assert not any(word in detail for word in ("Traceback", "/tmp", "site-packages", "0x")), detail
    assert is_emptied(client.app.state.settings.store)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_told_over_every_way_in(client: TestClient, name: str) -> None:
    content = BROKEN[name]
    encoded = base64.b64encode(content).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, url]}]
    as_form = client.post("/forward", files={"image": ("a.png", content)}, data={"max_new_tokens": "1"})
    as_json = client.post("/forward", json={"image": encoded, "text": "a", "max_new_tokens": 1})
    in_chat = client.post("/v1/chat/completions", json={"model": "active", "messages": messages, "max_tokens": 1})
    is_told(client, as_form, as_form.json()["detail"])
    is_told(client, as_json, as_json.json()["detail"])
    is_told(client, in_chat, in_chat.json()["error"]["message"])
    in_archive = client.post(
        "/forward_batch", files={"file": ("a.zip", archive_of({"a.png": content, "b.png": PNG}))},
        data={"max_new_tokens": "1"},
    )  # fmt: skip
    broken, whole = in_archive.json()["predictions"]
    assert broken["id"] == "a.png"
    assert broken["error"] == as_form.json()["detail"]
    assert whole["read"]["text"]
    assert is_emptied(client.app.state.settings.store)  # type: ignore[attr-defined]


def test_a_changed_picture_is_never_an_error_of_the_service(client: TestClient) -> None:
    for seed in range(60):
        source = random.Random(seed)
        content = bytearray(source.choice((PNG, JPEG, GIF)))
        for _ in range(source.randint(1, 8)):
            content[source.randrange(len(content))] = source.randrange(256)
        answer = client.post("/forward", files={"image": ("a.png", bytes(content))}, data={"max_new_tokens": "1"})
        assert answer.status_code in (200, 400, 403, 413), (seed, answer.text)
    assert is_emptied(client.app.state.settings.store)  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_form_that_breaks_off_is_told(client: TestClient, cut: int) -> None:
    whole = part("max_new_tokens", b"1") + part("image", PNG, "a.png") + END
    content = whole[: len(whole) * cut // 40]
    answer = client.post("/forward", content=content, headers={"Content-Type": FORM})
    is_told(client, answer, answer.json()["detail"])


@pytest.mark.parametrize("name", ["../../etc/passwd.png", "/etc/passwd.png", "a\0b.png", "..\\..\\a.png", "x" * 3_000])
def test_the_name_of_a_picture_is_nobodys_path(client: TestClient, name: str) -> None:
    body = part("image", PNG, name) + part("max_new_tokens", b"1") + END
    answer = client.post("/forward", content=body, headers={"Content-Type": FORM})
    assert answer.status_code == 200, answer.text
    assert is_emptied(client.app.state.settings.store)  # type: ignore[attr-defined]


def test_a_large_picture_of_nothing_is_refused_by_its_pixels_or_read_in_vain(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("1", (30_000, 20_000)).save(file, "PNG")
    answer = client.post("/forward", files={"image": ("a.png", file.getvalue())})
    is_told(client, answer, answer.json()["detail"])
