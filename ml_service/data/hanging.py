"""A PostgreSQL that hangs instead of refusing: nobody waits for it without end, and while it hangs one at a time asks.

The driver's own time limits are the server's to keep, or TCP's: of a process that was stopped, a machine that swaps or
a disk that does not come back neither notices anything. So every wait of the driver comes through here.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import extensions

from ml_service.common.errors import Unavailable

_RETRY_S = 2.0
_NO_ANSWER = "the database does not answer"
_EVENTS = {extensions.POLL_READ: select.POLLIN, extensions.POLL_WRITE: select.POLLOUT}


class Patience:
    """With one database: how long a wait may take, and whether the last one was in vain."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._hangs = False
        self._turn = threading.Lock()
        self._asker: int | None = None
        self._patient = threading.local()
        extensions.set_wait_callback(_wait)  # one for the whole process; each connection knows whose patience it tries
        self.connection_class = type("Connection", (extensions.connection,), {"patience": self})

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around whatever uses the database. Raises Unavailable at once while it hangs and another one is asking."""
        if not self._hangs or self._asker == threading.get_ident():
            yield
            return
        if not self._turn.acquire(blocking=False):
            raise Unavailable(_NO_ANSWER, retry_after_s=_RETRY_S)
        self._asker = threading.get_ident()
        try:
            yield
        finally:
            self._asker = None
            self._turn.release()

    @contextmanager
    def without_limit(self) -> Iterator[None]:
        """What this thread asks in the block may take as long as it takes: a change of the schema."""
        self._patient.has_time = True
        try:
            yield
        finally:
            self._patient.has_time = False

    def check(self) -> None:
        """Raises the driver's error where a new connection would only wait once more for what has just not answered."""
        if self._hangs and self._asker != threading.get_ident():
            raise psycopg2.OperationalError(_NO_ANSWER)

    def longest_ms(self) -> float | None:
        """Of a wait that begins now; None for one without end."""
        return None if getattr(self._patient, "has_time", False) else self._longest_s * 1000

    def answered(self) -> None:
        """It does not hang."""
        self._hangs = False

    def was_in_vain(self) -> None:
        """It did not answer in time."""
        self._hangs = True


def _wait(connection: Any) -> None:
    """The driver waits for the next bytes of the server. Raises its OperationalError where they take too long."""
    patience: Patience | None = getattr(connection, "patience", None)
    while (state := connection.poll()) != extensions.POLL_OK:
        if state not in _EVENTS:
            raise psycopg2.OperationalError(f"the driver is in state {state}")
        poll = select.poll()
        poll.register(connection.fileno(), _EVENTS[state])
        if not poll.poll(patience.longest_ms() if patience is not None else None):
            assert patience is not None, "only the patience with a database has an end"
            patience.was_in_vain()
            raise psycopg2.OperationalError(_NO_ANSWER)
    if patience is not None:
        patience.answered()
