"""What is told of a prompt's own tokens: their log-probabilities with alternatives, or their likelihood in sum."""

from __future__ import annotations

from lib.scores import Window
from ml_service.common.errors import ModelFailure
from ml_service.inference.operators import Logits, NatsOf
from ml_service.inference.sampler import Bests, Choice, with_logprobs
from ml_service.inference.sequence import Echo, Likelihood


class Echoes:
    """Each token of the prompt but the first, with the likeliest ones in its place."""

    first = 0

    def __init__(self, prompt_ids: list[int], alternatives: int) -> None:
        self._prompt_ids, self._alternatives = prompt_ids, alternatives
        self._choices: list[Choice] = []

    def take(self, start: int, logits_TV: Logits, bests: Bests) -> None:
        """The logits after the next tokens; those after the last one are the answer's."""
        for following, logits_V in enumerate(logits_TV, start + 1):
            if following < len(self._prompt_ids):
                self._choices.append(with_logprobs(logits_V, self._prompt_ids[following], self._alternatives))

    def event(self) -> Echo:
        """All of them."""
        return Echo(tuple(self._choices))


class Likelihoods:
    """The targets of a window, which is the prompt; in sum."""

    def __init__(self, window: Window, nats: NatsOf) -> None:
        self.first, self._targets, self._nats_of = window.first, window.targets, nats
        self._nats, self._hits = 0.0, 0

    def take(self, start: int, logits_TV: Logits, bests: Bests) -> None:
        """The logits after the next tokens. Raises ModelFailure where they are not finite."""
        skipped = max(self.first - start, 0)
        targets = self._targets[start + skipped - self.first :][: len(logits_TV) - skipped]
        likeliest = [best for best in bests[skipped:] if best is not None]
        if len(likeliest) != len(targets):
            raise ModelFailure("the model gave logits that are not finite")
        self._nats += float(self._nats_of(logits_TV[skipped:], targets, likeliest).sum())
        self._hits += sum(map(int.__eq__, likeliest, targets))

    def event(self) -> Echo:
        """The sums."""
        return Echo(likelihood=Likelihood(self._nats, len(self._targets), self._hits))
