"""A worker's hold on a job: heartbeats, progress, wishes to stop; writes wait for a database that is away or full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from ml_service.common.errors import CANNOT_WRITE_NOW
from ml_service.data.jobs import Claim, Jobs, LeaseLost

_HEARTBEAT_S = 5.0
_PATIENCE_S = 600.0
_Result = TypeVar("_Result")


class Lease:
    """One claimed job. Every method raises LeaseLost where another worker may have it."""

    def __init__(self, jobs: Jobs, claim: Claim, stop: threading.Event) -> None:
        """`stop` is set where the worker has to end."""
        self.claim, self.stop = claim, stop
        self.progress: dict[str, Any] = dict(claim.progress)
        self.is_cancelled = False
        self._jobs = jobs
        self._heard = time.monotonic()
        self._last_beat = float("-inf")

    def beat(self, *, at_once: bool = False) -> None:
        """Keep the lease and tell the progress, every few seconds however often it is called."""
        if at_once or time.monotonic() - self._last_beat > _HEARTBEAT_S:
            self._last_beat = time.monotonic()
            self._try(self._beat)

    def tell(self, write: Callable[[Session], None]) -> bool:
        """Write what can be told again; whether it was written. The work goes on without the database for a lease."""

        def fenced() -> None:
            with self._jobs.fenced(self.claim) as session:
                write(session)

        return self._try(fenced)

    def persist(self, write: Callable[[Session], _Result]) -> _Result:
        """Write what must not be lost: a database that is away or full is waited for. Raises what it is in the end."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._jobs.fenced(self.claim) as session:
                    return write(session)
            except CANNOT_WRITE_NOW:
                if time.monotonic() > deadline or self.stop.wait(1.0):
                    raise

    def _beat(self) -> None:
        self.is_cancelled = self._jobs.heartbeat(self.claim, self.progress) or self.is_cancelled

    def _try(self, do: Callable[[], None]) -> bool:
        try:
            do()
        except CANNOT_WRITE_NOW:
            if time.monotonic() - self._heard > self._jobs.lease_s:
                raise LeaseLost("the database was away for longer than the lease") from None
            return False
        self._heard = time.monotonic()
        return True
