"""How requests of an engine ended, lately: the figures by which one model is judged beside another."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

_KEPT = 1024


class Pace(NamedTuple):
    """An answer's speed."""

    token_s: float
    """Seconds between two of its tokens."""
    beside: int
    """Requests that were under way in the process then, this one among them."""


@dataclass(frozen=True)
class Seen:
    """What is known of an engine's requests."""

    requests: int = 0
    """Since it began."""
    recent: int = 0
    """Those among the latest, of which the rest tells."""
    errors: int = 0
    """That were the model's or its runtime's, not the client's."""
    paces: tuple[Pace, ...] = ()


class TrackRecord:
    """Written by the decode loop, read by whoever judges; bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._latest: deque[Pace | bool] = deque(maxlen=_KEPT)
        """A pace, True for an answer too short to have one, False for an error."""

    def answered(self, decode_s: float, tokens: int, beside: int) -> None:
        """A request has its answer."""
        self._add(Pace(decode_s / (tokens - 1), beside) if tokens > 1 else True)

    def failed(self) -> None:
        """The model, or what runs it, failed a request."""
        self._add(False)

    def seen(self) -> Seen:
        """Everything, as one state."""
        with self._lock:
            latest, requests = tuple(self._latest), self._requests
        errors = sum(each is False for each in latest)
        return Seen(requests, len(latest), errors, tuple(each for each in latest if isinstance(each, Pace)))

    def _add(self, what: Pace | bool) -> None:
        with self._lock:
            self._requests += 1
            self._latest.append(what)
