"""Streamed text: equal to the whole, never half a character, never a part of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lib.detokenizer import Detokenizer
from lib.tokenizer import train_byte_level_bpe
from ml_service.inference.text_stream import TextStream


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_level_bpe(["the cat sat on the mat; naïve café 日本語 🙂 " * 3], 320)


def stream(tokenizer: Tokenizer, ids: list[int], stop: list[str] | None = None) -> list[str]:
    text = TextStream(Detokenizer(tokenizer).pieces(), stop or [])
    pieces = []
    for token_id in ids:
        pieces.append(text.push(token_id))
        if text.is_stopped:
            break
    return [*pieces, text.finish()]


@given(text=st.text(max_size=60))
def test_streamed_text_is_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    pieces = stream(tokenizer, tokenizer.encode(text).ids)
    assert "".join(pieces) == text


@given(text=st.text(alphabet="aé日🙂 ", max_size=40))
def test_no_piece_ends_in_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    for piece in stream(tokenizer, tokenizer.encode(text).ids):
        assert "\ufffd" not in piece


@given(ids=st.lists(st.integers(1, 319), max_size=40))
def test_tokens_that_are_no_text_end_as_replacements_and_lose_nothing(tokenizer: Tokenizer, ids: list[int]) -> None:
    streamed = "".join(stream(tokenizer, ids))
    whole = tokenizer.decode(ids)
    assert streamed == whole


@given(
    text=st.text(alphabet="abc ", max_size=40),
    stop=st.lists(st.text(alphabet="abc ", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_text_ends_before_the_stop_string_that_is_complete_first_and_shows_none_of_it(
    tokenizer: Tokenizer, text: str, stop: list[str]
) -> None:
    shown = ""
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    expected = text[: min(found)[1]] if found else text
    for piece in stream(tokenizer, tokenizer.encode(text).ids, stop):
        shown += piece
        assert expected.startswith(shown)
    assert shown == expected


def test_a_stop_string_over_several_tokens_is_found(tokenizer: Tokenizer) -> None:
    ids = [i for character in "the cat sat" for i in tokenizer.encode(character).ids]
    assert "".join(stream(tokenizer, ids, ["at s"])) == "the c"


def test_a_beginning_of_a_stop_string_that_comes_to_nothing_is_given_out(tokenizer: Tokenizer) -> None:
    pieces = stream(tokenizer, tokenizer.encode("the ca").ids, ["cats"])
    assert "".join(pieces) == "the ca"
