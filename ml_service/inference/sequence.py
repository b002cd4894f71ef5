"""One request inside the engine: its tokens, its state, its own sampler and text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ml_service.common.types import FinishReason, GenerationParameters
from ml_service.inference.sampler import Choice, Sampler, Vector
from ml_service.inference.text_stream import TextStream


@dataclass(frozen=True)
class Usage:
    """Tokens that a request cost."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Delta:
    """Text that is sure, and the tokens behind it; the text may be empty while a character or stop string is open."""

    text: str
    choice: Choice


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


Event = Delta | Finished | Failed


@dataclass
class Sequence:
    """State of one request; owned by the decode loop from `submit` on."""

    id: str
    prompt_ids: list[int]
    parameters: GenerationParameters
    sampler: Sampler
    text: TextStream
    publish: Callable[[Event], None]
    end_of_text_id: int
    max_total_tokens: int
    """The context: prompt and answer together never exceed it."""
    generated_ids: list[int] = field(default_factory=list)
    slot: int | None = None
    cached: int = 0
    """Tokens of prompt and answer that the slot's cache holds."""
    is_cancelled: bool = False
    submitted_at: float = field(default_factory=time.perf_counter)
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    @property
    def needs_prefill(self) -> bool:
        """Whether some of the prompt is not in the cache yet."""
        return self.cached < len(self.prompt_ids)

    def next_ids(self, chunk: int) -> list[int]:
        """The tokens of its next step: a piece of the prompt, or the token chosen last."""
        if self.needs_prefill:
            return self.prompt_ids[self.cached : self.cached + chunk]
        return self.generated_ids[-1:]

    def choose(self, logits_V: Vector) -> Choice:
        """Choose the next token. Raises ModelFailure where the logits are not finite."""
        seen = [*self.prompt_ids, *self.generated_ids] if self.parameters.repetition_penalty != 1.0 else []
        return self.sampler.choose(logits_V, seen)

    def accept(self, choice: Choice) -> FinishReason | None:
        """Take the chosen token, publish what is sure, tell whether and why the sequence is done."""
        self.last_token_at = time.perf_counter()
        if not self.generated_ids:
            self.first_token_at = self.last_token_at
        self.generated_ids.append(choice.token_id)
        if choice.token_id == self.end_of_text_id:
            return "stop"
        self.publish(Delta(self.text.push(choice.token_id), choice))
        if self.text.is_stopped:
            return "stop"
        room = self.max_total_tokens - len(self.prompt_ids) - len(self.generated_ids)
        if len(self.generated_ids) >= self.parameters.max_new_tokens or room <= 0:
            return "length"
        return None

    def finish(self, reason: FinishReason) -> Finished:
        """What is told at the end."""
        now = time.perf_counter()
        admitted = self.admitted_at or now
        first = self.first_token_at or now
        decode_s = max(self.last_token_at - first, 0.0)
        later_tokens = max(len(self.generated_ids) - 1, 0)
        return Finished(
            text=self.text.finish(),
            reason=reason,
            usage=Usage(len(self.prompt_ids), len(self.generated_ids), 0),
            timings=Timings(
                queue_ms=round((admitted - self.submitted_at) * 1e3, 3),
                prefill_ms=round((first - admitted) * 1e3, 3),
                decode_ms=round(decode_s * 1e3, 3),
                tokens_per_second=round(later_tokens / decode_s, 1) if decode_s > 0 else 0.0,
            ),
        )
