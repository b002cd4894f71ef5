"""The time that a request has is for all of it: pictures are read, continued and drawn within the same."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ml_service.backend.deadlines import Deadline
from ml_service.common.errors import Overloaded
from ml_service.inference.reading import Reading
from tests.fakes import PlainReader
from tests.test_http import events

PICTURE = base64.b64encode(b"picture:def value").decode()
SOON = {"X-Request-Timeout": "0.05"}


class SlowReader(PlainReader):
    """Never done with what it is asked for."""

    def __init__(self, *verbs: str) -> None:
        super().__init__()
        self.verbs, self.cancelled = verbs, 0

    async def read(self, image: bytes) -> Reading:
        await self._wait("read")
        return await super().read(image)

    async def draw(self, image: bytes, reading: Reading, continuation: str) -> bytes:
        await self._wait("draw")
        return await super().draw(image, reading, continuation)

    async def _wait(self, verb: str) -> None:
        if verb in self.verbs:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1


def with_reader(client: TestClient, monkeypatch: pytest.MonkeyPatch, *verbs: str) -> SlowReader:
    reader = SlowReader(*verbs)
    monkeypatch.setitem(client.app.state._state, "image_reader", reader)  # type: ignore[attr-defined]
    return reader


def asked(client: TestClient, route: str, headers: dict[str, str]) -> Any:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    match route:
        case "json":
            return client.post("/forward", json={"image": PICTURE, "max_new_tokens": 4}, headers=headers)
        case "form":
            files = {"image": ("a.png", b"picture:def")}
            return client.post("/forward", files=files, data={"max_new_tokens": "4"}, headers=headers)
        case _:
            body = {"model": "active", "max_tokens": 4, "messages": [{"role": "user", "content": [image]}]}
            return client.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("route", ["json", "form", "chat"])
def test_a_picture_that_takes_longer_than_the_request_may_is_given_up(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    reader = with_reader(client, monkeypatch, "read")
    answer = asked(client, route, SOON)
    assert answer.status_code == 429
    assert "before the image was read" in answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert reader.cancelled == 1
    with_reader(client, monkeypatch)
    assert asked(client, route, {"X-Request-Timeout": "60"}).status_code == 200


def test_an_answer_does_not_wait_for_its_picture_longer_than_it_may(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = {"image": PICTURE, "max_new_tokens": 2, "return_image": True}
    reader = with_reader(client, monkeypatch, "draw")
    headers = {"X-Request-Timeout": "0.5"}
    answer = client.post("/forward", json=wish, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["image"] is None
    assert answer.json()["prediction"]
    *_, (name, done) = events(client.post("/forward", json=wish | {"stream": True}, headers=headers).text)
    assert (name, done["image"]) == ("done", None)
    assert reader.cancelled == 2


def test_a_deadline_leaves_a_moment_and_cancels_what_takes_longer() -> None:
    async def play() -> None:
        deadline = Deadline(0.0)
        assert 0 < deadline.left_s < 0.1
        with pytest.raises(Overloaded, match="before it was done"):
            await deadline.met_by(asyncio.Event().wait(), "it was done")
        assert 59 < Deadline(60).left_s <= 60

    asyncio.run(play())
