"""Text from tokens as they come: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER_TOKENS = 4
"""A character of UTF-8 has at most four bytes: what is not one after four tokens never will be."""


class TextStream:
    """Turns the tokens of one sequence into text. What it returns, joined, is the text up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._pending_ids: list[int] = []
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Take one token; returns the text that is sure by now."""
        if self.is_stopped:
            return ""
        self._pending_ids.append(token_id)
        text = self._tokenizer.decode(self._pending_ids, skip_special_tokens=True)
        if text.endswith(REPLACEMENT) and len(self._pending_ids) < LONGEST_CHARACTER_TOKENS:
            return ""  # the character may end with the next token
        self._pending_ids.clear()
        return self._release(text, is_last=False)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.is_stopped:
            return ""
        text = self._tokenizer.decode(self._pending_ids, skip_special_tokens=True)
        self._pending_ids.clear()
        return self._release(text, is_last=True)

    def _release(self, text: str, is_last: bool) -> str:
        self._held += text
        found = [position for stop in self._stop if (position := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            sure, self._held = self._held[: min(found)], ""
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
