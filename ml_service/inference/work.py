"""What the engine is asked for, and the whole of what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lib.scores import Window
from ml_service.common.types import GenerationParameters
from ml_service.inference.operators import NatsOf
from ml_service.inference.prompt_scores import Echoes, Likelihoods
from ml_service.inference.sampler import Choice
from ml_service.inference.sequence import Delta, Echo, Finished, PromptScores

Told = tuple[int, Echo | Delta | Finished]
"""Which answer, and what came of it."""


@dataclass(frozen=True)
class Work:
    """What is asked for: each prompt continued `n` times with the same parameters."""

    prompts: Sequence[list[int]]
    parameters: GenerationParameters
    request_id: str
    n: int = 1
    timeout_s: float | None = None
    """Shorter than what the engine allows anyway."""
    echoes: bool = False
    """Also the log-probabilities of the prompts' own tokens."""
    window: Window | None = None
    """The prompt, where the likelihood of its targets is asked for."""
    operation: Literal["text_completion", "chat"] = "text_completion"
    """In the words of OpenTelemetry's GenAI conventions, for traces."""

    def scores(self, index: int, nats: NatsOf) -> PromptScores | None:
        """What an answer tells of its prompt."""
        if self.window is not None:
            return Likelihoods(self.window, nats)
        return Echoes(self.prompts[index // self.n], self.parameters.logprobs or 0) if self.echoes else None


@dataclass
class Completion:
    """A whole answer."""

    text: str = ""
    choices: list[Choice] = field(default_factory=list)
    """Of the tokens of the text; with log-probabilities where they were asked for."""
    echo: Echo = field(default_factory=Echo)
    finished: Finished | None = None

    @property
    def end(self) -> Finished:
        """Why and how it ended."""
        assert self.finished is not None, "a stream ended without its end: this is a bug"
        return self.finished

    def add(self, event: Echo | Delta | Finished) -> None:
        """Take the next event."""
        if isinstance(event, Echo):
            self.echo = event
            return
        self.text += event.text
        if isinstance(event, Finished):
            self.finished = event
        else:
            self.choices.extend(event.choices)
