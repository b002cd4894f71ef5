"""Every generation parameter, seen to do what it says; deadlines; several answers; constrained output."""

from __future__ import annotations

import json
import re

import pytest
from fastapi.testclient import TestClient

from tests.test_http import PROMPT, events, post


def test_several_answers_are_those_of_several_seeds_and_the_first_is_the_single_one(client: TestClient) -> None:
    sampling: dict[str, object] = {"temperature": 1.5, "seed": 3}
    single = post(client, **sampling)
    several = post(client, **sampling, n=4)
    texts = [answer["prediction"] for answer in several["answers"]]
    assert texts[0] == several["prediction"] == single["prediction"]
    assert len(set(texts)) == 4
    assert "answers" not in single
    assert several["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]
    assert several["usage"]["completion_tokens"] > single["usage"]["completion_tokens"]


def test_a_stream_of_several_answers_tells_them_apart(client: TestClient) -> None:
    sampling = {"temperature": 1.5, "seed": 3, "n": 3}
    whole = post(client, **sampling)
    *deltas, (last, done) = events(client.post("/forward", json=PROMPT | sampling | {"stream": True}).text)
    assert last == "done"
    for index, answer in enumerate(whole["answers"]):
        assert "".join(data["delta"] for _, data in deltas if data["index"] == index) == answer["prediction"]
    assert done["answers"] == whole["answers"]


def test_token_ids_stop_are_biased_and_the_end_of_the_text_can_be_passed(client: TestClient) -> None:
    scores = post(client, logprobs=0)["logprobs"]
    third = scores[2]["token_id"]
    stopped = post(client, stop_token_ids=[third], logprobs=0)
    first = next(i for i, score in enumerate(scores) if score["token_id"] == third)
    assert [s["token_id"] for s in stopped["logprobs"]] == [s["token_id"] for s in scores[:first]]
    assert stopped["finish_reason"] == "stop"
    assert post(client, logit_bias={str(third): 100}, logprobs=0)["logprobs"][0]["token_id"] == third
    ended = post(client, logit_bias={"0": 100})
    assert (ended["finish_reason"], ended["usage"]["completion_tokens"]) == ("stop", 1)
    passed = post(client, logit_bias={"0": 100}, ignore_eos=True)
    assert (passed["finish_reason"], passed["usage"]["completion_tokens"]) == ("length", 12)


def test_no_new_tokens_only_reads_the_prompt(client: TestClient) -> None:
    body = post(client, max_new_tokens=0)
    assert (body["prediction"], body["finish_reason"]) == ("", "length")
    assert body["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("temperature", [0, 2.0])
def test_an_answer_matches_the_expression_as_a_whole(client: TestClient, temperature: float) -> None:
    for seed in range(5):
        body = post(client, regex="[0-9]{2,4}(px|em)", temperature=temperature, seed=seed, max_new_tokens=30)
        assert re.fullmatch("[0-9]{2,4}(px|em)", body["prediction"]), body["prediction"]
        assert body["finish_reason"] == "stop"


def test_an_answer_follows_its_json_schema(client: TestClient) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "bb"]}, "ok": {"type": "boolean"}},
        "required": ["kind", "ok"],
        "additionalProperties": False,
    }
    for seed in range(4):
        body = post(client, json_schema=schema, temperature=2.0, seed=seed, max_new_tokens=45, logprobs=1)
        value = json.loads(body["prediction"])
        assert value["kind"] in ("a", "bb")
        assert isinstance(value["ok"], bool)


def test_a_constraint_leaves_its_neighbours_alone(client: TestClient) -> None:
    free = post(client)["prediction"]
    rows = [PROMPT["text"], {"text": "x", "regex": "[ab]{4}"}, PROMPT["text"]]
    answer = client.post("/forward_batch", json={"texts": rows, "max_new_tokens": 12}).json()
    assert [answer["predictions"][i]["prediction"] for i in (0, 2)] == [free, free]
    assert re.fullmatch("[ab]{4}", answer["predictions"][1]["prediction"])


def test_the_clients_own_time_out_ends_the_answer_with_what_it_has(client: TestClient) -> None:
    body = PROMPT | {"max_new_tokens": 40, "ignore_eos": True}
    answer = client.post("/forward", json=body, headers={"X-Request-Timeout": "0.000001"})
    # Over before it had a slot: refused, or over while it ran: told what there is.
    assert answer.status_code == 429 or answer.json()["finish_reason"] == "timeout"
    assert client.post("/forward", json=body, headers={"X-Request-Timeout": "60"}).json()["finish_reason"] == "length"
    for wrong in ("0", "-1", "soon", "nan", "inf"):
        refused = client.post("/forward", json=body, headers={"X-Request-Timeout": wrong})
        assert refused.status_code == 400, wrong
        assert "X-Request-Timeout" in refused.json()["detail"]


def test_prompts_that_begin_alike_share_the_work_and_not_the_answer(client: TestClient) -> None:
    text = "def zq(xj, wk):\n" + "jx " * 11
    first = post(client, text=text, max_new_tokens=3)
    again = post(client, text=text, max_new_tokens=3)
    assert again["usage"]["cached_tokens"] == 32
    assert again["usage"]["prompt_tokens"] > 32
    assert again["prediction"] == first["prediction"]
