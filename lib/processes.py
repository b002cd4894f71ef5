"""Processes that work in the background: only when nobody else wants the processor, and not longer than their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

_LEAST = 19


def run_when_idle() -> None:
    """Give way to every other process from now on, with all children; where there is no such class, with `nice`."""
    with contextlib.suppress(OSError):  # a container may forbid both
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.nice(_LEAST)


def end_with_parent() -> None:
    """End at once when standard input closes: whoever holds its other end has gone, even by kill -9."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
