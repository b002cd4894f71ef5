"""Background processes: only when nobody else wants the processor, and not longer than their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

_LEAST = 19
_BORN_FIELD = 19
"""In what follows the name in /proc/PID/stat: field 22 of proc(5)."""


def run_when_idle() -> None:
    """Give way to every other process from now on, with all children; where there is no such class, with `nice`.

    Linux may schedule sessions as groups, beyond which a class does not count: the leader of one makes its group nice.
    """
    with contextlib.suppress(OSError):  # a container may forbid any of it
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(_LEAST), encoding="ascii")
    with contextlib.suppress(OSError):
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        os.nice(_LEAST)


def training_processes() -> int:
    """How many processes share a training on this machine: one for each GPU, at least two; known without torch."""
    return max(len(list(Path("/dev").glob("nvidia[0-9]*"))), 2)


def own_name() -> str:
    """By what other processes know this one: `HOST:PID:BORN`, for a PID comes again, in a container nearly always."""
    return f"{socket.gethostname()}:{os.getpid()}:{_born(os.getpid()) or 0}"


def is_gone(name: str) -> bool:
    """Whether that process was of this machine and lives no more. Of another machine's nothing is known."""
    host, *numbers = name.rsplit(":", 2)
    if host != socket.gethostname() or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
        return False
    pid, born = map(int, numbers)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return born != 0 and _born(pid) not in (None, born)


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not tell."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return None
    return int(after_name.split()[_BORN_FIELD])


def end_with_parent() -> None:
    """End at once when standard input closes: whoever holds its other end has gone, even by kill -9."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_at_once_when_asked() -> None:
    """From now on SIGTERM ends this process as `kill -9` would, but with code 0: for who has nothing under way yet."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
