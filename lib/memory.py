"""Memory: how much is free; glibc's allocator told to keep freed pages, or to give them back."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 30


def free_bytes() -> int:
    """What this process may still take: of the machine, or of its control group where that has less left."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    amounts = [_meminfo_available() or pages, _control_group_left()]
    return min(amount for amount in amounts if amount is not None)


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _control_group_left() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)


@cache
def _glibc() -> ctypes.CDLL | None:
    name = ctypes.util.find_library("c") or "libc.so.6"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") else None


def keep_freed_pages() -> bool:
    """Let the process reuse large blocks rather than map and zero them anew; False where there is no glibc.

    A step of the `mini` preset takes 0.7 of the time with this; the rest went into page faults (benchmarks/NOTES.md).
    """
    library = _glibc()
    if library is None:
        return False
    return bool(
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) and library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES - 1)
    )


def give_back_freed_pages() -> bool:
    """Return unused heap to the system; False where there is no glibc."""
    library = _glibc()
    return bool(library.malloc_trim(0)) if library is not None else False
