"""One step of the network: what each sequence feeds into it, and the logits that it gets back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ml_service.inference.operators import Logits
from ml_service.inference.sampler import Bests, likeliest_of_rows
from ml_service.inference.sequence import Sequence as Request
from ml_service.inference.session import Row


class Part(NamedTuple):
    """One sequence's share."""

    sequence: Request
    token_ids: list[int]
    guess: list[int]
    """Those of the tokens, at their end, that are guessed."""
    is_prompt: bool

    @property
    def row(self) -> Row:
        """As the session takes it."""
        assert self.sequence.slot is not None, "a sequence without a slot was scheduled: this is a bug"
        return Row(self.sequence.slot, self.sequence.cached, self.token_ids, self.wants_all)

    @property
    def logit_rows(self) -> int:
        """How many tokens' logits come back."""
        return len(self.token_ids) if self.wants_all else 1

    @property
    def wants_all(self) -> bool:
        """Whether the logits after each of its tokens are wanted, and not only those after the last one."""
        scores = self.sequence.scores
        return not self.is_prompt or (scores is not None and self.sequence.cached + len(self.token_ids) > scores.first)


def shares(parts: Sequence[Part], logits_TV: Logits) -> Iterator[tuple[Part, Logits, Bests]]:
    """Each part with its own logits, and the likeliest token of each of their rows."""
    bests = likeliest_of_rows(logits_TV)
    start = 0
    for part in parts:
        stop = start + part.logit_rows
        yield part, logits_TV[start:stop], bests[start:stop]
        start = stop
