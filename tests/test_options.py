"""Options as text: every parameter of a request as a field, a header and a cell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.datastructures import Headers

from ml_service.backend.options import form_properties, header_of, options_of
from ml_service.backend.schemas import ForwardOptions
from ml_service.common.errors import BadRequest
from ml_service.common.types import GenerationParameters

EXAMPLES: dict[str, Any] = {
    "max_new_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2,
    "logit_bias": {5: -1.5}, "stop": ["\n", "я"], "stop_token_ids": [1, 2], "ignore_eos": True,
    "json_schema": {"type": "string"}, "regex": "[0-9]+", "seed": 11, "logprobs": 2, "n": 3, "stream": True,
    "return_image": True, "model": "with our notes",
}  # fmt: skip


def test_there_is_an_example_of_every_option() -> None:
    assert set(EXAMPLES) == set(ForwardOptions.model_fields) >= set(GenerationParameters.model_fields)


def as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_is_the_same_as_a_field_and_as_a_header(name: str) -> None:
    value = EXAMPLES[name]
    expected = ForwardOptions(**{name: value})
    text = as_text(value)
    raw = [(header_of(name).lower().encode(), text.encode())]
    assert options_of(ForwardOptions, {name: [text]}, Headers()) == expected
    assert options_of(ForwardOptions, {}, Headers(raw=raw)) == expected
    if isinstance(value, list):
        assert options_of(ForwardOptions, {name: [as_text(item) for item in value]}, Headers()) == expected


def test_a_field_goes_before_a_header_and_other_headers_are_nobodys() -> None:
    headers = Headers({"X-Max-New-Tokens": "5", "X-Seed": "9", "X-Forwarded-For": "here", "X-Text": "no"})
    assert options_of(ForwardOptions, {"max_new_tokens": ["6"]}, headers) == ForwardOptions(max_new_tokens=6, seed=9)


def test_a_stop_string_that_only_begins_like_json_is_a_text() -> None:
    for text in ("[", "[1", "a"):
        assert options_of(ForwardOptions, {"stop": [text]}, Headers()).stop == [text]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"temperature": ["warm"]}, "temperature: Input should be a valid number"),
        ({"temperature": ["-1"]}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": ["NaN"]}, "temperature: Input should be a finite number"),
        ({"max_new_tokens": ["1", "2"]}, "max_new_tokens: it came 2 times"),
        ({"max_new_tokens": [""]}, "max_new_tokens: Input should be a valid integer"),
        ({"logit_bias": ["5=1"]}, "logit_bias: not JSON"),
        ({"json_schema": ["[" * 20_000]}, "json_schema: not JSON"),
        ({"stop": [""]}, "stop.0: "),
        ({"stream": ["perhaps"]}, "stream: Input should be a valid boolean"),
    ],
)
def test_what_is_wrong_is_told_by_its_name(form: dict[str, list[str]], words: str) -> None:
    with pytest.raises(BadRequest) as error:
        options_of(ForwardOptions, form, Headers())
    assert words in str(error.value)
    assert error.value.fields[0][0].startswith(next(iter(form)))


def test_a_header_that_is_no_unicode_is_told() -> None:
    with pytest.raises(BadRequest, match="X-Stop: not UTF-8"):
        options_of(ForwardOptions, {}, Headers(raw=[(b"x-stop", b"\xff")]))


def test_the_documentation_says_how_lists_and_objects_are_sent() -> None:
    properties = form_properties(ForwardOptions)
    assert properties["stop"]["description"].endswith("In a form: repeat the field, or send JSON.")
    assert properties["json_schema"]["description"].endswith("In a form: send JSON.")
    assert "In a form" not in properties["seed"]["description"]
    assert "$ref" not in json.dumps(properties)


def test_kinds_are_seen_through_none() -> None:
    class Wish(BaseModel):
        names: list[str] | None = None

    assert options_of(Wish, {"names": ["a", "b"]}, Headers()).names == ["a", "b"]
