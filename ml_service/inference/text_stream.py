"""Text from tokens as they come: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are no character; an open character at the end shows as exactly one."""


class TextStream:
    """Turns the tokens of one sequence into text.

    What it returns, joined, is the text up to the stop string that is complete first.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._pending_ids: list[int] = []
        self._given_characters = 0
        """How much of the pending tokens' text was returned already."""
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Take one token; returns the text that is sure by now."""
        if self.is_stopped:
            return ""
        self._pending_ids.append(token_id)
        text = self._tokenizer.decode(self._pending_ids, skip_special_tokens=True)
        if not text.endswith(REPLACEMENT):
            return self._release(self._take(text), is_last=False)
        fresh = text[self._given_characters : -1]  # the last character may be whole with the next token
        self._given_characters = max(len(text) - 1, self._given_characters)
        return self._release(fresh, is_last=False)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.is_stopped:
            return ""
        text = self._tokenizer.decode(self._pending_ids, skip_special_tokens=True)
        return self._release(self._take(text), is_last=True)

    def _take(self, text: str) -> str:
        """What is new in the text of the pending tokens, which are done with."""
        fresh = text[self._given_characters :]
        self._pending_ids.clear()
        self._given_characters = 0
        return fresh

    def _release(self, text: str, is_last: bool) -> str:
        self._held += text
        # The one that is complete first counts, so that the answer does not depend on how the text is cut into tokens.
        found = [(start + len(stop), start) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            sure, self._held = self._held[: min(found)[1]], ""
            return sure
        keep = 0 if is_last else self._longest_possible_beginning()
        sure = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return sure

    def _longest_possible_beginning(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
