"""Whom to ask: the small interface that a service and an engine share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from ml_service.pipeline.load.workload import Ask


class AskFailed(Exception):
    """A request that was not answered: `reason` is what failures are counted by, the message is a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Used:
    """Tokens that an answer cost, as the one who answered counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Target(Protocol):
    """Answers requests, many at a time, in one event loop."""

    takes_ids: bool
    """Whether prompts may be token ids; else they are text."""

    async def answer(self, ask: Ask, on_token: Callable[[], None]) -> Used:
        """The whole answer; `on_token` is called for each token of a stream as it comes. Raises AskFailed."""
        ...


class Openable(Protocol):
    """A target that is not open yet; as text it is what a report calls it."""

    def open(self) -> AbstractAsyncContextManager[Target]:
        """Open it inside the event loop of one measurement."""
        ...
