"""Lanes: kinds of jobs that do not wait for one another; when all have had nothing to do, the work is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

LOOK_EVERY_S = 1.0
_SHORTEST_PAUSE_S = 0.05


class Lanes:
    """Each lane in a thread, until `stop` is set or, where wanted, until nobody had anything to do for a while."""

    def __init__(self, names: Sequence[str], stop: threading.Event) -> None:
        self._names, self._stop = names, stop
        self._lock = threading.Lock()
        self._idle_since: dict[str, float] = {}
        self._era = 0
        self._is_over = threading.Event()

    def run(self, work_once: Callable[[str], bool], until_idle_s: float | None) -> None:
        """`work_once` does the next job of a lane, and says whether there was one. Blocks; what it raises is raised."""
        errors: list[BaseException] = []

        def drive(name: str) -> None:
            try:
                self._drive(name, work_once, until_idle_s)
            except BaseException as error:
                errors.append(error)
                self._is_over.set()

        threads = [threading.Thread(target=drive, args=(name,), name=f"lane-{name}") for name in self._names]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # in pieces: signals are handled between them
                thread.join(LOOK_EVERY_S)
        if errors:
            raise errors[0]

    def _drive(self, name: str, work_once: Callable[[str], bool], until_idle_s: float | None) -> None:
        pause_s = LOOK_EVERY_S if until_idle_s is None else min(LOOK_EVERY_S, until_idle_s + _SHORTEST_PAUSE_S)
        while not (self._stop.is_set() or self._is_over.is_set()):
            idle_since, era = self._look_begins(name)
            if work_once(name):
                self._has_worked()
                continue
            idle_s = self._found_nothing(name, idle_since, era)
            if until_idle_s is not None and idle_s > until_idle_s:
                self._is_over.set()
            self._stop.wait(pause_s)

    def _look_begins(self, name: str) -> tuple[float | None, int]:
        """Who looks may find work: until it is known, nobody can say that all are idle."""
        with self._lock:
            return self._idle_since.pop(name, None), self._era

    def _has_worked(self) -> None:
        """What was done may have brought work for others: what they have seen before is worth nothing."""
        with self._lock:
            self._era += 1
            self._idle_since.clear()

    def _found_nothing(self, name: str, idle_since: float | None, era: int) -> float:
        """How long this lane and all others have found nothing; -1 where one of them works or has yet to look."""
        with self._lock:
            if era != self._era:
                return -1.0
            self._idle_since[name] = time.monotonic() if idle_since is None else idle_since
            if len(self._idle_since) < len(self._names):
                return -1.0
            return time.monotonic() - max(self._idle_since.values())
