"""Text from tokens as they come: equal to what the tokenizer makes of all of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lib.detokenizer import Detokenizer
from lib.tokenizer import bytes_of_token, train_byte_level_bpe

TEXT = "the cat sat on the mat; naïve café 日本語 🙂 "


def metaspace_tokenizer() -> Tokenizer:
    """As Llama's first one: words begin with a mark, unknown characters are bytes, the first space is dropped."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat"] * 3, trainer)
    state = json.loads(tokenizer.to_str())
    size = len(state["model"]["vocab"])
    state["model"]["vocab"] |= {f"<0x{byte:02X}>": size + byte for byte in range(256)}
    return Tokenizer.from_str(json.dumps(state))


TOKENIZERS = {"byte-level": train_byte_level_bpe([TEXT * 3], 320), "metaspace": metaspace_tokenizer()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_pieces_joined_are_the_text_of_the_whole(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    if kind == "byte-level":  # any tokens, broken characters and special ones too
        ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=40))
    else:
        ids = tokenizer.encode(data.draw(st.text(alphabet="the cat saonm;vé日🙂", max_size=40))).ids
    pieces = Detokenizer(tokenizer).pieces()
    text = "".join(pieces.push(token_id) for token_id in ids) + pieces.finish()
    assert text == tokenizer.decode(ids, skip_special_tokens=True)


@given(st.text(max_size=40))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text: str) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer.encode(text).ids
    assert b"".join(bytes_of_token(tokenizer, token_id) for token_id in ids) == text.encode()


def test_a_byte_that_stands_for_itself_is_that_byte() -> None:
    tokenizer = TOKENIZERS["metaspace"]
    assert bytes_of_token(tokenizer, tokenizer.token_to_id("<0xE6>")) == b"\xe6"
    assert bytes_of_token(tokenizer, tokenizer.token_to_id("<0x41>")) == b"A"
