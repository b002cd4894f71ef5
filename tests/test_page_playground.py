"""Of the playground, without a browser: parameters, what is copied, and which token made which text."""

from __future__ import annotations

import json
import random
import shlex
from itertools import pairwise
from typing import Any

import pytest

from ml_service.frontend.playground.parameters import Parameter, parameters_of
from ml_service.frontend.playground.snippets import Wish, curl, python
from ml_service.frontend.playground.tokens import Piece, Trail


def score(token: str, logprob: float = -0.5) -> dict[str, Any]:
    return {"token_id": 1, "token": token, "logprob": logprob, "alternatives": []}


def shown(pieces: list[Piece]) -> list[tuple[str, list[str]]]:
    return [(piece.text, [token["token"] for token in piece.tokens]) for piece in pieces]


def test_each_token_has_its_own_text() -> None:
    trail = Trail()
    assert shown(trail.add("def f", [score("def"), score(" f")])) == [("def", ["def"]), (" f", [" f"])]
    assert trail.end() == []


def test_tokens_that_share_a_character_are_one_piece() -> None:
    trail = Trail()
    assert trail.add("", [score("\ufffd"), score("\ufffd")]) == []
    pieces = trail.add("日x", [score("\ufffd"), score("x")])
    assert shown(pieces) == [("日", ["\ufffd"] * 3), ("x", ["x"])]


def test_text_that_is_held_back_finds_its_tokens_later() -> None:
    trail = Trail()
    assert trail.add("", [score("en"), score("d")]) == []
    assert shown(trail.add("end.", [score(".")])) == [("en", ["en"]), ("d", ["d"]), (".", ["."])]


def test_tokens_of_a_stop_string_are_left_out() -> None:
    trail = Trail()
    assert shown([*trail.add("a", [score("a"), score("\n"), score("\n")]), *trail.end()]) == [("a", ["a"])]


def test_whatever_the_tokens_are_the_pieces_make_the_text() -> None:
    draw = random.Random(7)
    for _ in range(500):
        text = "".join(draw.choice("ab \n日本é😀\ufffd") for _ in range(draw.randrange(1, 20)))
        raw = text.encode()
        cuts = sorted({0, len(raw), *(draw.randrange(len(raw) + 1) for _ in range(6))})
        tokens = [raw[a:b].decode(errors="replace") for a, b in pairwise(cuts)]
        trail, pieces, sent = Trail(), [], 0
        for end, token in zip(cuts[1:], tokens, strict=True):
            sure = len(raw[:end].decode(errors="ignore"))
            pieces += trail.add(text[sent:sure], [score(token)])
            sent = max(sent, sure)
        pieces += [*trail.add(text[sent:], []), *trail.end()]
        assert "".join(piece.text for piece in pieces) == text
        assert sum(len(piece.tokens) for piece in pieces) <= len(tokens)


PROPERTIES = {
    "seed": {"anyOf": [{"type": "integer", "minimum": 0, "exclusiveMaximum": 2.0**63}, {"type": "null"}]},
    "regex": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "temperature": {"type": "number", "minimum": 0, "maximum": 10, "default": 0.0, "description": "0 is greedy."},
    "stop": {"type": "array", "items": {"type": "string"}},
    "text": {"type": "string"},
}


def parameter(name: str) -> Parameter:
    found = parameters_of({"components": {"schemas": {"ForwardRequest": {"properties": PROPERTIES}}}})
    return next(each for each in found if each.name == name)


def test_the_common_parameters_come_first_and_the_prompt_is_none() -> None:
    found = parameters_of({"components": {"schemas": {"ForwardRequest": {"properties": PROPERTIES}}}})
    assert [each.name for each in found] == ["temperature", "seed", "stop", "regex"]


def test_a_parameter_tells_its_limits_and_default() -> None:
    assert parameter("temperature").hint == "0 is greedy. 0 to 10. Default: 0."
    assert parameter("seed").hint == "From 0. Default: none."


def test_only_what_differs_from_the_default_is_sent() -> None:
    assert parameter("temperature").value_of("0") is None
    assert parameter("temperature").value_of("0.7") == 0.7
    assert parameter("seed").value_of("9007199254740993") == 9007199254740993
    assert parameter("stop").value_of("\\n\\n\n# end\n") == ["\n\n", "# end"]


@pytest.mark.parametrize(("name", "typed"), [("seed", "1.5"), ("temperature", "nan"), ("temperature", "warm")])
def test_what_is_no_number_is_refused(name: str, typed: str) -> None:
    with pytest.raises(ValueError, match="number is wanted"):
        parameter(name).value_of(typed)


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace(" \\\n", " "))


def test_a_copied_command_says_exactly_what_was_typed() -> None:
    text = 'it\'s $HOME `x`\n\t"quoted" \\ é'
    words = words_of(curl(Wish("http://h:1", text, {"stop": ["'"]}, wants_key=True)))
    assert words[:2] == ["curl", "-sS"]
    assert words[2] == "http://h:1/forward"
    assert "Authorization: Bearer $ML_SERVICE_KEY" in words
    assert json.loads(words[-1]) == {"text": text, "stop": ["'"]}


def test_a_copied_command_sends_a_picture_as_a_file() -> None:
    words = words_of(curl(Wish("http://h", "", {"n": 2, "stop": ["a"]}, picture='my "own".png')))
    assert words[3:] == ["-F", 'image=@"my \\"own\\".png"', "--form-string", "n=2", "--form-string", 'stop=["a"]']


def test_a_copied_script_is_python() -> None:
    for wish in (
        Wish("http://h", "a\n'\"\\", {"regex": "\\d", "ignore_eos": True}),
        Wish("http://h", "", {"n": 2}, picture="x.png", wants_key=True),
    ):
        compile(python(wish), "copied", "exec")
