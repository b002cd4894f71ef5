"""How fast this machine is: what a step takes, how much of a prompt is fair beside others, when to tell; pure."""

from __future__ import annotations

import math

_MEMORY = 0.98
"""What a measurement weighs after one more: some fifty steps count."""
_SHARED_RATIO = 2.4
"""A step that reads a prompt too may take as long as so many without it: its 99th percentile is then under three."""
_TURN_RATIO = 1.5
"""The same for a piece of prompt that is read in a step of its own, between two others."""
_SHORTEST_CHUNK = 8
_SCORED_LOGITS = 2**23
"""The most of a step that are wanted of tokens of prompts: 32 MiB, which are kept."""
_SCORED_LOGITS_BESIDE_OTHERS = 2**21
"""The same where others wait for their next token: more would hold them up."""
FRAME_S = 1 / 60
"""Of a display. Tokens that one shows in the same frame are told together, for a wake-up costs more than a token."""
_TELLING_S = 1e-3
"""Each stream's share of a frame where there are many: telling one of its tokens costs the event loop and its client
a tenth of that, and all of them together never more of the machine than that."""
LONGEST_FRAME_S = 0.1
UNNOTICED_S = FRAME_S / 4
"""A step as short as this is fair whatever it holds."""


class Pace:
    """A line through the latest steps: seconds = a + b * tokens, each step's error in parts of its time."""

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._s = self._ns = 0.0

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step with so many tokens took so long."""
        weight = 1 / max(seconds, 1e-9) ** 2
        sums = (self._w, self._n, self._nn, self._s, self._ns)
        added = (1.0, tokens, tokens * tokens, seconds, tokens * seconds)
        self._w, self._n, self._nn, self._s, self._ns = (
            _MEMORY * total + weight * value for total, value in zip(sums, added, strict=True)
        )

    def fair_chunk(self, reading: int, decoding: int, longest: int, shares_step: bool) -> int:
        """The tokens of prompts that may be read while so many others wait for their next token.

        Where more wait for their first token than for their next one, what is read grows with their number: a step
        that is longer for few is a shorter wait for many.
        """
        line = self._line()
        if line is None or not decoding:
            return longest
        base_s, token_s = line
        base_tokens = base_s / token_s
        if shares_step:
            tokens = (_SHARED_RATIO - 1) * (base_tokens + decoding) * max(reading / decoding, 1.0)
        else:
            tokens = _TURN_RATIO * (base_tokens + decoding) - base_tokens
        unnoticed = (UNNOTICED_S - base_s) / token_s - (decoding if shares_step else 0)
        return int(min(max(tokens, unnoticed, _SHORTEST_CHUNK), longest))

    def _line(self) -> tuple[float, float] | None:
        """Seconds that every step takes, and seconds a token; None where nothing is known."""
        if not self._w:
            return None
        determinant = self._w * self._nn - self._n * self._n
        if determinant <= 1e-6 * self._w * self._nn:  # all steps were equally long
            return 0.0, self._s / self._n
        slope = (self._w * self._ns - self._n * self._s) / determinant
        base = (self._s - slope * self._n) / self._w
        return (max(base, 0.0), slope) if slope > 0 else None


def frame_s(streams: int) -> float:
    """How long tokens may wait to be told together, in seconds: longer where many streams want to be told."""
    return min(max(FRAME_S, streams * _TELLING_S), LONGEST_FRAME_S)


class Frames:
    """When streams are told of their tokens: once a frame, or after each step where that takes longer."""

    def __init__(self) -> None:
        self._stepped_at = self._told_at = -math.inf

    def is_due(self, now: float, streams: int) -> bool:
        """After each step, at `now` seconds: whether to tell, since the next step would end too late for that."""
        step_s, self._stepped_at = now - self._stepped_at, now
        if now + step_s <= self._told_at + frame_s(streams):
            return False
        self._told_at = now
        return True


def scored_tokens(decoding: int, vocabulary_size: int) -> int:
    """Of how many of a prompt's tokens a step may give the logits while so many wait for their next token."""
    return max((_SCORED_LOGITS_BESIDE_OTHERS if decoding else _SCORED_LOGITS) // vocabulary_size, 1)
