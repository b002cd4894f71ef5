"""`/forward_batch`: in order, as alone, a bad row fails alone."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi.testclient import TestClient

from lib.in_order import map_in_order
from tests.test_http import post

WORDS = "value total count name path item line text index result".split()


def test_a_batch_is_the_answers_of_its_rows_alone_in_their_order(client: TestClient) -> None:
    texts = [f"def {first}_{second}(" for first in WORDS for second in WORDS[:4]]
    body = {"texts": texts, "max_new_tokens": 6, "temperature": 1.0, "seed": 1}
    answer = client.post("/forward_batch", json=body)
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert [row["id"] for row in predictions] == [str(number) for number in range(40)]
    for text, row in list(zip(texts, predictions, strict=True))[::7]:
        alone = post(client, text=text, max_new_tokens=6, temperature=1.0, seed=1)
        assert (row["prediction"], row["finish_reason"]) == (alone["prediction"], alone["finish_reason"])


def test_a_bad_row_fails_alone_and_rows_have_parameters_of_their_own(client: TestClient) -> None:
    rows = [
        "def value(",
        {"text": "def value(", "max_new_tokens": 2, "id": "short"},
        {"text": "def value(", "temperature": -1, "id": "cold"},
        {"txt": "def value("},
        7,
        "ab cd " * 100,
        "\ud800",
        {"text": "def value(", "regex": "[a-"},
    ]
    content = json.dumps({"texts": rows, "max_new_tokens": 5})
    answer = client.post("/forward_batch", content=content, headers={"Content-Type": "application/json"})
    first, short, cold, unnamed, number, long, surrogate, broken = answer.json()["predictions"]
    assert first["prediction"].startswith(short["prediction"])
    assert (short["id"], short["finish_reason"]) == ("short", "length")
    assert (cold["id"], "temperature" in cold["error"]) == ("cold", True)
    assert "text: Field required" in unnamed["error"]
    assert number["error"]
    assert "the model's context is 64" in long["error"]
    assert "surrogate" in surrogate["error"]
    assert "regex cannot be used" in broken["error"]
    assert all("prediction" not in row for row in (cold, unnamed, number, long, surrogate, broken))


def test_rows_come_one_by_one_where_lines_are_asked_for(client: TestClient) -> None:
    body = {"texts": [{"text": "def value(", "id": "a"}, {"text": "x", "top_k": -1, "id": "b"}], "max_new_tokens": 3}
    answer = client.post("/forward_batch", json=body, headers={"Accept": "application/x-ndjson"})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert "error" in rows[1]
    assert rows[:1] == client.post("/forward_batch", json=body).json()["predictions"][:1]


@pytest.mark.parametrize("body", [{}, {"texts": []}, {"texts": "a"}, {"texts": ["a"], "tmp": 1}])
def test_what_is_no_batch_is_refused_as_a_whole(client: TestClient, body: dict[str, object]) -> None:
    assert client.post("/forward_batch", json=body).status_code == 400


def test_rows_whose_time_is_up_before_they_begin_end_with_that(client: TestClient) -> None:
    headers = {"X-Request-Timeout": "5e-324"}
    answer = client.post("/forward_batch", json={"texts": ["a", "b"], "max_new_tokens": 4}, headers=headers)
    assert answer.status_code == 200
    assert {row["error"] for row in answer.json()["predictions"]} == {"the time was up before a slot was free"}


def test_rows_with_half_a_surrogate_pair_anywhere_fail_alone(client: TestClient) -> None:
    rows = (
        b'{"text": "a", "id": "\\ud800"}', b'{"text": "a", "\\ud800": 1}', b'{"text": "a", "stop": ["\\ud800"]}',
        b'{"text": "a", "json_schema": {"a": "\\ud800"}}', b'{"text": "a", "json_schema": {"\\ud800": {}}}', b'"a"',
    )  # fmt: skip
    body = b'{"max_new_tokens": 2, "texts": [' + b",".join(rows) + b"]}"
    answer = client.post("/forward_batch", content=body, headers={"Content-Type": "application/json"})
    predictions = answer.json()["predictions"]
    assert len(predictions) == len(rows)
    assert "prediction" in predictions[-1]
    assert [row["id"] for row in predictions] == ["?", "1", "2", "3", "4", "5"]
    assert all("as a unicode string" in row["error"] for row in predictions[:3])
    assert not any("error of the service" in row.get("error", "") for row in predictions)


def test_a_window_bounds_what_runs_and_closing_cancels_it() -> None:
    running, most, taken = 0, 0, []

    async def slow(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.001 * (item % 3))
        finally:
            running -= 1
        return 2 * item

    def items(count: int) -> object:
        for item in range(count):
            taken.append(item)
            yield item

    async def check() -> None:
        assert [r async for r in map_in_order(slow, items(50), 4)] == [2 * i for i in range(50)]  # type: ignore[arg-type]
        assert most <= 4
        taken.clear()
        endless = map_in_order(slow, items(10_000), 4)  # type: ignore[arg-type]
        assert await anext(endless) == 0
        await endless.aclose()
        await asyncio.sleep(0)
        assert len(taken) <= 5
        assert running == 0

    asyncio.run(check())
