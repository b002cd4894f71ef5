"""OpenAI's own client against a running server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import TOKENIZER_FILE
from tests.test_process import Server

PROMPT = "def value_total(count"
SECOND = "def name_path(item"


@pytest.fixture(scope="module")
def server(bundle_fp32: Path) -> Iterator[Server]:
    server = Server(bundle_fp32, slots="4", max_waiting="8", threads="1")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=str(server.client.base_url.join("/v1")), api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(bundle_fp32: Path):  # type: ignore[no-untyped-def]
    return load_tokenizer(bundle_fp32 / TOKENIZER_FILE)


def forward(server: Server, text: str, **changes: object) -> dict[str, object]:
    body = {"text": text, "max_new_tokens": 12} | changes
    answer = server.client.post("/forward", json=body).raise_for_status().json()
    assert isinstance(answer, dict)
    return answer


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["active", "small", "1"]
    assert client.models.retrieve("small").created > 1_700_000_000
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        client.models.retrieve("gpt-4")


def test_a_completion_is_what_forward_answers(client: openai.OpenAI, server: Server) -> None:
    expected = forward(server, PROMPT)
    answer = client.completions.create(model="active", prompt=PROMPT, max_tokens=12, temperature=0)
    assert answer.choices[0].text == expected["prediction"]
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("cmpl-")
    assert answer.model == "small"


def test_lists_of_texts_and_of_token_ids_give_an_answer_each(
    client: openai.OpenAI,
    server: Server,
    tokenizer,  # type: ignore[no-untyped-def]
) -> None:
    ids = [tokenizer.encode(text).ids for text in (PROMPT, SECOND)]
    expected = [forward(server, text)["prediction"] for text in (PROMPT, SECOND)]
    for prompt in ([PROMPT, SECOND], ids):
        answer = client.completions.create(model="small", prompt=prompt, max_tokens=12, temperature=0)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1]
    one = client.completions.create(model="small", prompt=ids[1], max_tokens=12, temperature=0)
    assert [choice.text for choice in one.choices] == expected[1:]


def test_a_stream_of_several_prompts_and_answers_is_the_whole_in_pieces(client: openai.OpenAI) -> None:
    asked = {"model": "active", "prompt": [PROMPT, SECOND], "n": 2, "max_tokens": 8, "seed": 4, "logprobs": 2}
    whole = client.completions.create(**asked, stream=False)  # type: ignore[call-overload]
    texts, tokens = [""] * 4, [[], [], [], []]  # type: ignore[var-annotated]
    offsets: list[list[int]] = [[], [], [], []]
    usage = None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):  # type: ignore[call-overload]
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens
            offsets[choice.index] += choice.logprobs.text_offset
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_echo_scores_the_prompt_as_pytorch_does(
    client: openai.OpenAI,
    bundle_fp32: Path,
    tokenizer,  # type: ignore[no-untyped-def]
) -> None:
    from ml_service.common.settings import Settings
    from ml_service.inference.live import open_session
    from ml_service.inference.session import Row

    text = "def value_total(count):\n    return naïve 日本"
    ids = tokenizer.encode(text).ids
    session = open_session(bundle_fp32, Settings(runtime="torch", slots=1, threads=1))
    logits = torch.from_numpy(session.run([Row(0, 0, ids, wants_all=True)]))
    session.close()
    expected = torch.log_softmax(logits.double(), -1)[range(len(ids) - 1), ids[1:]].tolist()
    answer = client.completions.create(model="active", prompt=text, max_tokens=0, echo=True, logprobs=3)
    choice = answer.choices[0]
    assert choice.text == text
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.text_offset is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert len(choice.logprobs.tokens) == len(ids)
    whole = [(t, o) for t, o in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True) if "\\x" not in t]
    assert all(text[offset:].startswith(token) for token, offset in whole)
    streamed = ""
    asked = {"model": "active", "prompt": text, "max_tokens": 4, "echo": True, "temperature": 0}
    for chunk in client.completions.create(**asked, stream=True):  # type: ignore[call-overload]
        streamed += chunk.choices[0].text
    assert streamed == client.completions.create(**asked).choices[0].text  # type: ignore[call-overload]
    assert streamed.startswith(text)


def test_a_chat_answers_whole_and_streamed_with_scores(client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "Code."}, {"role": "user", "content": [{"type": "text", "text": "def "}]}]
    asked = {"model": "active", "messages": messages, "max_tokens": 8, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**asked, top_logprobs=2)  # type: ignore[call-overload]
    scores = whole.choices[0].logprobs.content
    assert (
        b"".join(bytes(score.bytes) for score in scores)
        .decode(errors="replace")
        .startswith(whole.choices[0].message.content.rstrip("�"))
    )
    assert all(score.top_logprobs[0].logprob == pytest.approx(score.logprob) for score in scores)
    text, roles, reasons = "", [], []
    for chunk in client.chat.completions.create(**asked, stream=True):  # type: ignore[call-overload]
        text += chunk.choices[0].delta.content or ""
        roles.append(chunk.choices[0].delta.role)
        reasons.append(chunk.choices[0].finish_reason)
    assert text == whole.choices[0].message.content
    assert roles[0] == "assistant"
    assert reasons[-1] == whole.choices[0].finish_reason
    assert set(reasons[:-1]) == {None}


def test_a_chat_gives_json_where_it_is_asked_for(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}  # fmt: skip
    answer = client.chat.completions.create(
        model="active",
        messages=[{"role": "user", "content": "Is it?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        max_tokens=30,
        seed=1,
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert isinstance(value["ok"], bool)


def test_usage_tells_what_was_read_before(client: openai.OpenAI) -> None:
    prompt = "def zq(xj, wk):\n" + "qz " * 11
    for expected in (0, 32):
        answer = client.completions.create(model="active", prompt=prompt, max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == expected


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"best_of": 3}, None),
        ({"suffix": "x"}, "suffix"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"temperature": -1.0}, "temperature"),
        ({"extra_body": {"tool": 1}}, "tool"),
        ({"prompt": [1, 99_999]}, "prompt"),
        ({"prompt": "ab cd " * 60}, "text"),
        ({"stop": [""]}, "stop.0"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"stream_options": {"include_usage": True}}, None),
    ],
)
def test_what_is_not_served_is_refused_and_named(client: openai.OpenAI, wrong: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(**({"model": "active", "prompt": "a", "max_tokens": 2} | wrong))  # type: ignore[call-overload]
    body = refusal.value.body
    assert isinstance(body, dict)
    assert body["type"] == "invalid_request_error"
    assert body["message"]
    if param:
        assert body["param"] == param


def test_tools_and_unknown_models_are_refused(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=messages)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model="active", messages=messages, tools=[])  # type: ignore[arg-type]


def test_probabilities_are_probabilities(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="active", prompt=PROMPT, max_tokens=3, logprobs=20, temperature=0)
    assert answer.choices[0].logprobs is not None
    for top in answer.choices[0].logprobs.top_logprobs or []:
        assert sum(math.exp(value) for value in top.values()) <= 1.0 + 1e-6
