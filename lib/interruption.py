"""A polite end: the first SIGTERM or SIGINT asks, the second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(Exception):
    """A training that ended before its budget was spent, and from where it can go on."""

    exit_code = 1
    ends_at_once = False
    """An interpreter that ended in order would wait for what it has asked of a process that hangs."""


class Interrupted(TrainingStopped):
    """A signal asked for the end."""

    def __init__(self, message: str, by: signal.Signals) -> None:
        super().__init__(message)
        self.exit_code = 128 + by.value


class Diverged(TrainingStopped):
    """The loss or a gradient is no number any more."""


class CheckpointFailed(TrainingStopped):
    """A checkpoint could not be written."""


class Interruption:
    """Whether somebody wants the work to stop at the next good place."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the signals inside of the block; only a process's main thread can, elsewhere nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def ask(number: int, _: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in _SIGNALS:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
