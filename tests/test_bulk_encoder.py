"""Tokens of many texts: the fast way gives what the tokenizer gives, and is not taken where it might not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from lib.bulk_encoder import BulkEncoder
from lib.tokenizer import load_tokenizer, train_byte_level_bpe
from ml_service.common.settings import PROJECT
from tests.conftest import write_corpus

SHIPPED = PROJECT / "data/bundle/tokenizer.json"


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_byte_level_bpe(["def f(a, b):\n    return a.b\n\n\n    it's  b\t12 日本\n"] * 3, 320)


def assert_alike(tokenizer: Tokenizer, texts: list[str]) -> None:
    encoder = BulkEncoder(tokenizer)
    assert encoder.is_fast
    assert [ids.tolist() for ids in encoder.encode(texts)] == [tokenizer.encode(text).ids for text in texts]


@given(
    st.lists(
        st.text(st.sampled_from("abdefrt 1.'\n\r\t\x1c\x85\u00a0\u2028\u200b日本é🙂<|>_"), max_size=40), max_size=4
    )
)
def test_any_text_has_the_same_tokens(small: Tokenizer, texts: list[str]) -> None:
    assert_alike(small, texts)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=200), max_size=3))
def test_the_shipped_tokenizer_reads_any_unicode_alike(texts: list[str]) -> None:
    assert_alike(load_tokenizer(SHIPPED), ["<|endoftext|> is text", *texts])


def test_code_and_prose_have_the_same_tokens(tmp_path: Path) -> None:
    write_corpus(tmp_path / "code", files=5)
    texts = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "code").iterdir())]
    texts += [path.read_text(encoding="utf-8") for path in (PROJECT / "README.md", PROJECT / "lib/tokenizer.py")]
    assert_alike(load_tokenizer(SHIPPED), texts)


def test_other_kinds_of_tokenizers_do_their_own_work(small: Tokenizer) -> None:
    def changed(**parts: object) -> Tokenizer:
        tokenizer = Tokenizer.from_str(small.to_str())
        tokenizer.encode_special_tokens = True
        for name, part in parts.items():
            setattr(tokenizer, name, part)
        return tokenizer

    named = changed()
    named.add_tokens([AddedToken("return", special=False)])
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    for tokenizer in (
        changed(normalizer=normalizers.Lowercase()),
        changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        changed(pre_tokenizer=pre_tokenizers.Whitespace()),
        changed(encode_special_tokens=False),
        named,
        words,
    ):
        encoder = BulkEncoder(tokenizer)
        assert not encoder.is_fast
        assert [ids.tolist() for ids in encoder.encode(["a return A"])] == [tokenizer.encode("a return A").ids]


def test_merges_that_tiktoken_would_make_otherwise_are_not_left_to_it() -> None:
    """`abc` is listed as `ab` + `c`, but `bc` merges before `ab`: its own bytes never become it."""
    alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = alphabet | {"bc": 256, "ab": 257, "abc": 258}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "b"), ("ab", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.encode_special_tokens = True
    encoder = BulkEncoder(tokenizer)
    assert not encoder.is_fast
    assert encoder.encode(["abc"])[0].tolist() == [alphabet["a"], 256]
