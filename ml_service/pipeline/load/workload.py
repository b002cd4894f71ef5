"""What is asked and when: lengths, prompts and arrival times, a pure function of the seed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

TOKEN_IDS = range(1, 256)
"""Random prompts are drawn from these: every byte-level vocabulary has them, and id 0 often ends a text."""
WORDS = (
    "value total count name path item line text index result buffer size head tail node left right for in if else "
    "return def class import from self list with open not None True False and or is while try except raise print"
).split()

_SPAN = re.compile(r"([0-9]+)(?::([0-9]+))?")

Symbol = TypeVar("Symbol")


@dataclass(frozen=True)
class Span:
    """A length in tokens, drawn evenly from `least` to `most`, both included."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"{self} is no range of lengths: write 128, or 16:256")

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}:{self.most}"

    @classmethod
    def parse(cls, text: str) -> Span:
        """From `128` or `16:256`. Raises ValueError in words."""
        if (match := _SPAN.fullmatch(text)) is None:
            raise ValueError(f"{text!r} is no range of lengths: write 128, or 16:256")
        least, most = match.groups()
        return cls(int(least), int(most or least))

    def draw(self, source: Random) -> int:
        """One length."""
        return source.randint(self.least, self.most)


@dataclass(frozen=True)
class Ask:
    """One request, before anyone decides how it travels."""

    index: int
    prompt: str | list[int]
    new_tokens: int
    temperature: float
    seed: int
    ignore_eos: bool


@dataclass(frozen=True)
class Workload:
    """What is asked. The request of an index is always the same, whoever asks it and when."""

    prompt_tokens: Span = Span(16, 256)
    new_tokens: Span = Span(64, 128)
    shared_prefix: float = 0.0
    """Share of each prompt that is the same for all."""
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = True
    """Generate as many tokens as were drawn, past any end of text: the same work in every run."""
    words: bool = False
    """Prompts of words also for targets that take token ids."""

    def __post_init__(self) -> None:
        if not 0 <= self.shared_prefix <= 1:
            raise ValueError(f"the shared prefix is a share between 0 and 1, not {self.shared_prefix}")

    def __str__(self) -> str:
        shared = f", {self.shared_prefix:.0%} of each the same" if self.shared_prefix else ""
        lengths = f"prompts of about {self.prompt_tokens} tokens{shared}, {self.new_tokens} new"
        return f"{lengths}, temperature {self.temperature:g}, seed {self.seed}"

    def ask(self, index: int, tokens_per_word: float | None = None) -> Ask:
        """Request number `index`: a prompt of token ids, or of words where it is known how many tokens a word has."""
        source = Random(f"{self.seed} {index}")
        length, new_tokens = self.prompt_tokens.draw(source), self.new_tokens.draw(source)
        prompt: str | list[int]
        if tokens_per_word is None:
            prompt = self._draw(TOKEN_IDS, length, source)
        else:
            prompt = " ".join(self._draw(WORDS, max(1, round(length / tokens_per_word)), source))
        return Ask(index, prompt, new_tokens, self.temperature, source.getrandbits(31), self.ignore_eos)

    def _draw(self, symbols: Sequence[Symbol], length: int, source: Random) -> list[Symbol]:
        shared = round(length * self.shared_prefix)
        # A generator of random numbers that starts anew gives every prompt the beginning of one endless sequence.
        common = Random(f"{self.seed} shared").choices(symbols, k=shared)
        return common + source.choices(symbols, k=length - shared)


@dataclass(frozen=True)
class Load:
    """When it is asked: by so many clients, each of whom waits for its answer, or at a rate, whoever waits."""

    concurrency: int | None = None
    rate: float | None = None
    """Requests a second, at random times (a Poisson process)."""
    requests: int | None = None
    seconds: float | None = None
    """No request starts later; those under way are awaited."""
    warmup: int = 4
    """Requests before, which are not counted."""

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ValueError("give exactly one of concurrency or rate")
        if self.requests is None and self.seconds is None:
            raise ValueError("give a number of requests, seconds, or both")
        given = (self.concurrency, self.rate, self.requests, self.seconds)
        if any(value is not None and value <= 0 for value in given):
            raise ValueError("concurrency, rate, requests and seconds are more than nothing")
        if self.warmup < 0:
            raise ValueError("warm-up requests cannot be fewer than none")

    def __str__(self) -> str:
        return f"{self.concurrency}" if self.rate is None else f"{self.rate:g}/s"


def arrival_times(rate: float, seed: int) -> Iterator[float]:
    """Seconds after the start at which requests arrive: a Poisson process, without end."""
    source = Random(f"{seed} arrivals")
    now = 0.0
    while True:
        now += source.expovariate(rate)
        yield now
