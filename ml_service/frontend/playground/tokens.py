"""Which part of an answer's text each token made: what a stream tells of both, brought together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Score = Mapping[str, Any]
"""A token as the service tells of it: `token`, `logprob`, `alternatives`."""
_BROKEN = "\ufffd"
"""Stands for bytes that are no character by themselves."""
_SLACK = 8
"""So many characters may stand before a token's own: tokenizers that leave a space out of it."""
_LONGEST_CHARACTER_BYTES = 4


@dataclass(frozen=True)
class Piece:
    """A part of the text and the tokens that made it: one, or those that share a character."""

    text: str
    tokens: Sequence[Score] = ()

    def as_sent(self) -> list[Any]:
        """Text, probability, and what else could have stood there, as the browser takes it."""
        if not self.tokens:
            return [self.text, None, []]
        probability = math.exp(sum(token["logprob"] for token in self.tokens))
        others = [[other["token"], _rounded(math.exp(other["logprob"]))] for other in self.tokens[0]["alternatives"]]
        return [self.text, _rounded(probability), others]


class Trail:
    """Takes text and tokens as they come; whatever it gives is, put together, the text.

    Text comes late where it could be the beginning of a stop string; tokens that share a character come before it.
    """

    def __init__(self) -> None:
        self._text = ""
        self._tokens: list[Score] = []

    def add(self, text: str, tokens: Sequence[Score]) -> list[Piece]:
        """What is settled by now."""
        self._text += text
        self._tokens.extend(tokens)
        if not self._tokens:  # nobody counts them: there is nothing to wait for
            return [*self._rest()]
        return list(self._settled())

    def end(self) -> list[Piece]:
        """The rest; tokens that made no text that is shown are left out."""
        return [*self._settled(), *self._rest()]

    def _settled(self) -> Iterator[Piece]:
        while self._tokens and (end := self._reach()) is not None:
            count, length = end
            yield from self._taken(count, length)

    def _reach(self) -> tuple[int, int] | None:
        """How many tokens make how many characters next; None where that shows only later."""
        token = self._tokens[0]["token"]
        if _BROKEN not in token:
            at = self._text.find(token, 0, len(token) + _SLACK)
            if at >= 0:
                return 1, at + len(token)
            if token.startswith(self._text):
                return None
        least = _least_characters(token)
        for number, other in enumerate(self._tokens[1:], start=1):
            following = other["token"]
            if following and _BROKEN not in following and (at := self._text.find(following, least)) >= 0:
                return number, at
            least += _least_characters(following)
        return None

    def _rest(self) -> Iterator[Piece]:
        yield from self._taken(len(self._tokens), len(self._text))

    def _taken(self, count: int, length: int) -> Iterator[Piece]:
        text, self._text = self._text[:length], self._text[length:]
        tokens, self._tokens = self._tokens[:count], self._tokens[count:]
        if text:
            yield Piece(text, tokens)


def _least_characters(token: str) -> int:
    """Bytes of one character may be spread over so many tokens that one of them makes none."""
    broken = token.count(_BROKEN)
    return len(token) - broken + broken // _LONGEST_CHARACTER_BYTES


def _rounded(probability: float) -> float:
    return round(probability, 4)
