"""The workloads: seeded prompts of random tokens, the same for every participant."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.workers.protocol import Load, Request

Kind = Literal["mixed", "first_token", "shared"]
CONCURRENCIES = (1, 8, 32)
REQUESTS = {1: 4, 8: 24, 32: 64}
QUICK_REQUESTS = {1: 2, 8: 8, 32: 32}
PROMPT_TOKENS = (16, 256)
NEW_TOKENS = (64, 128)
FIRST_TOKEN_PROMPT = 512
SHARED_PROMPT, SHARED_TOKENS, SHARED_NEW_TOKENS = 256, 128, 32
SHARED_REQUESTS, SHARED_CONCURRENCY = 32, 8
LONGEST = FIRST_TOKEN_PROMPT + 16
"""The most tokens of one sequence in any workload."""


@dataclass(frozen=True)
class Workload:
    """A kind of load; its requests are a function of the seed."""

    kind: Kind
    concurrency: int = 1
    may_reuse_prefix: bool = False

    @property
    def label(self) -> str:
        """The head of its column."""
        if self.kind == "mixed":
            return f"{self.concurrency} clients" if self.concurrency > 1 else "1 client"
        if self.kind == "first_token":
            return f"first token of {FIRST_TOKEN_PROMPT}, ms"
        return "shared half, reused" if self.may_reuse_prefix else "shared half"

    def load(self, vocabulary_size: int, seed: int, *, is_quick: bool = False) -> Load:
        """The requests of a round. A new seed makes new prompts, or a prefix cache would know all of them."""
        source = random.Random(f"{self.kind} {self.concurrency} {seed}")

        def prompt(length: int) -> list[int]:
            return [source.randrange(1, vocabulary_size) for _ in range(length)]

        if self.kind == "mixed":
            count = (QUICK_REQUESTS if is_quick else REQUESTS)[self.concurrency]
            requests = [
                Request(prompt(source.randint(*PROMPT_TOKENS)), source.randint(*NEW_TOKENS)) for _ in range(count)
            ]
            return Load(requests, self.concurrency)
        if self.kind == "first_token":
            return Load([Request(prompt(FIRST_TOKEN_PROMPT), 1)], 1)
        shared = prompt(SHARED_TOKENS)
        requests = [
            Request(shared + prompt(SHARED_PROMPT - SHARED_TOKENS), SHARED_NEW_TOKENS) for _ in range(SHARED_REQUESTS)
        ]
        return Load(requests, self.concurrency, SHARED_TOKENS, "on" if self.may_reuse_prefix else "off")


def all_workloads() -> list[Workload]:
    """In the order of the table."""
    mixed = [Workload("mixed", concurrency) for concurrency in CONCURRENCIES]
    shared = [Workload("shared", SHARED_CONCURRENCY, may_reuse_prefix=reuse) for reuse in (False, True)]
    return [*mixed, Workload("first_token"), *shared]
