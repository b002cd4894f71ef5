"""How fast this machine is: what a piece of prompt and a decode step take, and so how long a fair piece is; pure."""

from __future__ import annotations

_SMOOTHING = 0.2
_FAIR_RATIO = 1.5
"""A piece of prompt between two decode steps may take as long as so many of them: a pause is then well under three."""
_SHORTEST_CHUNK = 16
_GRANULE = 8


class Pace:
    """Moving averages of step times."""

    def __init__(self) -> None:
        self._seconds_per_prompt_token = 0.0
        self._decode_step_s = 0.0

    def read(self, tokens: int, seconds: float) -> None:
        """A piece of a prompt took so long."""
        self._seconds_per_prompt_token = _smooth(self._seconds_per_prompt_token, seconds / tokens)

    def decoded(self, seconds: float) -> None:
        """A decode step took so long."""
        self._decode_step_s = _smooth(self._decode_step_s, seconds)

    def fair_chunk(self, longest: int) -> int:
        """The tokens of a prompt that may be read while others wait for their next token."""
        if not self._seconds_per_prompt_token or not self._decode_step_s:
            return longest
        tokens = int(_FAIR_RATIO * self._decode_step_s / self._seconds_per_prompt_token)
        return min(max(tokens - tokens % _GRANULE, _SHORTEST_CHUNK), longest)


def _smooth(average: float, value: float) -> float:
    return average + _SMOOTHING * (value - average) if average else value
