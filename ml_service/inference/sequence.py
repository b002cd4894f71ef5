"""One request inside the engine: its tokens, its state, its own sampler and text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ml_service.common.types import FinishReason, GenerationParameters
from ml_service.inference.constraint import Constraint
from ml_service.inference.lookup import PromptLookup
from ml_service.inference.operators import Logits
from ml_service.inference.sampler import Bests, Choice, Sampler, Vector
from ml_service.inference.text_stream import TextStream


@dataclass(frozen=True)
class Usage:
    """Tokens that a request cost."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt: those that another request had read before."""


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Likelihood:
    """How likely some tokens are behind those before them."""

    nats: float
    tokens: int
    hits: int
    """Those that were the likeliest of all."""

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(self.nats + other.nats, self.tokens + other.tokens, self.hits + other.hits)


@dataclass(frozen=True)
class Echo:
    """What was asked about the prompt itself."""

    choices: tuple[Choice, ...] = ()
    """Its tokens with their log-probabilities, from its second token on."""
    likelihood: Likelihood | None = None
    """Of the targets in it."""


class Delta(NamedTuple):
    """Text that is sure, and the tokens behind it; the text may be empty while a character or stop string is open."""

    text: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Finished:
    """The end of a sequence; `text` is what was still held back."""

    text: str
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True)
class Failed:
    """The sequence could not be answered."""

    error: Exception


Event = Echo | Delta | Finished | Failed


class PromptScores(Protocol):
    """What is to be known of the prompt's own tokens."""

    first: int
    """The place of the first token of the prompt whose logits are wanted."""

    def take(self, start: int, logits_TV: Logits, bests: Bests) -> None:
        """The logits after the tokens from place `start` on, and the likeliest token of each; may overwrite them.

        Raises ModelFailure where they are not finite.
        """

    def event(self) -> Event:
        """What is told when the whole prompt was read."""


@dataclass(frozen=True)
class Answered:
    """A request that has its answer, for those who want to ask another model the same."""

    prompt_ids: list[int]
    parameters: GenerationParameters
    """With the seed that was drawn."""
    ids: list[int]
    """The answer, without a token that only ended it."""
    finished: Finished


@dataclass(eq=False)
class Sequence:
    """State of one request; owned by the decode loop from `submit` on."""

    id: str
    prompt_ids: list[int]
    parameters: GenerationParameters
    sampler: Sampler
    text: TextStream
    publish: Callable[[Event], None]
    end_ids: tuple[int, ...]
    """Tokens that end a text."""
    max_total_tokens: int
    """The context: prompt and answer together never exceed it."""
    deadline: float = float("inf")
    """When it ends whatever it has by then; of `time.perf_counter`."""
    constraint: Constraint | None = None
    scores: PromptScores | None = None
    """What is told of the prompt itself."""
    streams: bool = True
    """Tell tokens as they come rather than all at the end."""
    ids: list[int] = field(init=False)
    """Prompt and answer."""
    room: int = field(init=False)
    """How many tokens may still come."""
    slot: int | None = None
    cached: int = 0
    """Tokens of prompt and answer that the slot's cache holds."""
    reused: int = 0
    """Those of them that another request had read before."""
    is_cancelled: bool = False
    submitted_at: float = field(default_factory=time.perf_counter)
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.ids = list(self.prompt_ids)
        self.room = min(self.parameters.max_new_tokens, self.max_total_tokens - len(self.ids))
        self.lookup = PromptLookup()
        self._texts: list[str] = []
        self._untold: list[Choice] = []
        ends = () if self.parameters.ignore_eos else self.end_ids
        self._stop_ids = frozenset((*self.parameters.stop_token_ids, *ends))

    @property
    def generated_ids(self) -> list[int]:
        """The answer so far."""
        return self.ids[len(self.prompt_ids) :]

    @property
    def generated(self) -> int:
        """How many tokens the answer has."""
        return len(self.ids) - len(self.prompt_ids)

    def answered(self, finished: Finished) -> Answered:
        """What was asked and answered, when it is over."""
        ids = self.generated_ids
        if finished.reason == "stop" and ids and ids[-1] in self._stop_ids:
            ids.pop()
        parameters = self.parameters.model_copy(update={"seed": self.sampler.seed})
        return Answered(self.prompt_ids, parameters, ids, finished)

    @property
    def needs_prefill(self) -> bool:
        """Whether some of the prompt is not in the cache yet."""
        return self.cached < len(self.prompt_ids)

    def prompt_piece(self, longest: int) -> list[int]:
        """The next tokens of the prompt that are to be read."""
        return self.prompt_ids[self.cached : self.cached + longest]

    @property
    def shared_tokens(self) -> int:
        """How many of its first tokens may be another's: of those behind them the logits are wanted."""
        return len(self.prompt_ids) - 1 if self.scores is None else self.scores.first

    def choose(self, logits_V: Vector, best: int | None = None) -> Choice:
        """Choose the next token. Raises ModelFailure where the logits are not finite."""
        allowed = None if self.constraint is None else self.constraint.allowed()
        return self.sampler.choose(logits_V, self.ids, allowed, best)

    def accept(self, choice: Choice, now: float) -> FinishReason | None:
        """Take the chosen token; returns whether and why the sequence is done."""
        token_id = choice.token_id
        self.last_token_at = now
        self.first_token_at = self.first_token_at or now
        self.ids.append(token_id)
        self.room -= 1
        if token_id in self._stop_ids:
            return "stop"
        self._texts.append(self.text.push(token_id))
        self._untold.append(choice)
        if self.text.is_stopped or (self.constraint is not None and self._is_complete(token_id)):
            return "stop"
        return "length" if self.room <= 0 else None

    def tell(self) -> None:
        """Publish the tokens that have come since the last time."""
        if self._untold:
            self.publish(Delta("".join(self._texts), tuple(self._untold)))
            self._texts.clear()
            self._untold.clear()

    def _is_complete(self, token_id: int) -> bool:
        assert self.constraint is not None, "only what is constrained can be complete"
        self.constraint.accept(token_id)
        return self.constraint.is_complete

    def finish(self, reason: FinishReason) -> Finished:
        """What is told at the end."""
        now = time.perf_counter()
        admitted = self.admitted_at or now
        first = self.first_token_at or now
        decode_s = max(self.last_token_at - first, 0.0)
        later_tokens = max(self.generated - 1, 0)
        return Finished(
            text=self.text.finish(),
            reason=reason,
            usage=Usage(len(self.prompt_ids), self.generated, self.reused),
            timings=Timings(
                queue_ms=round((admitted - self.submitted_at) * 1e3, 3),
                prefill_ms=round((first - admitted) * 1e3, 3),
                decode_ms=round(decode_s * 1e3, 3),
                tokens_per_second=round(later_tokens / decode_s, 1) if decode_s > 0 else 0.0,
            ),
        )
