"""Text from tokens as they come: never half a character; the pieces joined are the text of the whole."""

from __future__ import annotations

import codecs
import json
from typing import Protocol

from tokenizers import Tokenizer

from lib.tokenizer import REPLACEMENT, bytes_of_token


class Pieces(Protocol):
    """The text of one sequence."""

    def push(self, token_id: int) -> str:
        """Take one token; returns the characters that are whole by now."""

    def finish(self) -> str:
        """What was held back, when no more tokens come: a replacement character for what is none."""


class Detokenizer:
    """Makes pieces for one tokenizer; special tokens are no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = json.loads(tokenizer.to_str()).get("decoder", {}).get("type") == "ByteLevel"
        special = (token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        self._bytes_of: dict[int, bytes] = dict.fromkeys(special, b"")

    def pieces(self) -> Pieces:
        """For a new sequence."""
        if self._is_byte_level:
            return _BytePieces(self._tokenizer, self._bytes_of)
        return _DecodedPieces(self._tokenizer)


class _BytePieces:
    """For tokenizers whose text is the bytes of its tokens, one after the other: a look-up a token."""

    def __init__(self, tokenizer: Tokenizer, bytes_of: dict[int, bytes]) -> None:
        self._tokenizer, self._bytes_of = tokenizer, bytes_of
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token_id: int) -> str:
        known = self._bytes_of.get(token_id)
        if known is None:
            known = self._bytes_of[token_id] = bytes_of_token(self._tokenizer, token_id)
        return self._decode(known)

    def finish(self) -> str:
        return self._decode(b"", final=True)


class _DecodedPieces:
    """For any tokenizer: what its decoder makes of the last tokens, behind what it made of those before them.

    Decoders look at their neighbours (some strip the first space), so new tokens are decoded after known ones.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: list[int] = []
        """The tokens whose text was given last."""
        self._fresh: list[int] = []

    def push(self, token_id: int) -> str:
        self._fresh.append(token_id)
        text = self._new_text()
        if text.endswith(REPLACEMENT):  # the last character may be whole with the next token
            return ""
        self._known, self._fresh = self._fresh, []
        return text

    def finish(self) -> str:
        return self._new_text()

    def _new_text(self) -> str:
        return self._text([*self._known, *self._fresh])[len(self._text(self._known)) :]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text
