"""Prompt look-up: guess the next tokens from what followed the same words before; pure."""

from __future__ import annotations

_GRAM = 3
"""Tokens that must be the same; fewer guess more often and worse."""
_FIRST_GUESS = 3
_PATIENCE = 2
_LONGEST_PAUSE = 256


class PromptLookup:
    """The guesses of one sequence (Saxena 2023, prompt look-up decoding).

    Guesses grow while they come true, shrink while they do not, and pause, for ever longer, where they never do.
    """

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}
        self._indexed = _GRAM
        self._length = _FIRST_GUESS
        self._misses = 0
        self._pause = 0
        self._resumes_at = 0

    def propose(self, ids: list[int], most: int) -> list[int]:
        """At most `most` tokens that may come after `ids`, which only grows from call to call."""
        # The last gram is left out: it would find itself.
        for end in range(self._indexed, len(ids)):
            self._follows[tuple(ids[end - _GRAM : end])] = end
        self._indexed = max(self._indexed, len(ids))
        if len(ids) < self._resumes_at or most <= 0:
            return []
        start = self._follows.get(tuple(ids[-_GRAM:]))
        return [] if start is None else ids[start : start + min(self._length, most)]

    def learn(self, guessed: int, accepted: int, tokens: int) -> None:
        """Tell how a guess went; `tokens` is the length of the sequence now."""
        if accepted == guessed:
            self._length = 2 * self._length
        elif accepted < guessed / 2:
            self._length = max(self._length // 2, 1)
        if accepted:
            self._misses = self._pause = 0
            return
        self._misses += 1
        if self._misses >= _PATIENCE:
            self._pause = min(max(2 * self._pause, 8), _LONGEST_PAUSE)
            self._resumes_at = tokens + self._pause
