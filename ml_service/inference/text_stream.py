"""Text from tokens as they come, up to the first stop string: never a part of one is given."""

from __future__ import annotations

from collections.abc import Sequence

from lib.detokenizer import Pieces


class TextStream:
    """Turns the tokens of one sequence into text.

    What it returns, joined, is the text up to the stop string that is complete first.
    """

    def __init__(self, pieces: Pieces, stop: Sequence[str] = ()) -> None:
        self._pieces, self._stop = pieces, tuple(stop)
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Take one token; returns the text that is sure by now."""
        if not self._stop:
            return self._pieces.push(token_id)
        return "" if self.is_stopped else self._release(self._pieces.push(token_id), is_last=False)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        return "" if self.is_stopped else self._release(self._pieces.finish(), is_last=True)

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
