"""Memory: how much is free, pages taken as needed, glibc's allocator told to keep freed ones or to give them back."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import mmap
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.generic)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 30
CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Of this process, where it is in a container."""
_CONTROL_GROUPS = (
    (".", "memory.max", "memory.current", ""),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Their second version and their first: folder, what may be had, what is, and how its parts are called."""


@contextmanager
def at_most_more(more_bytes: int) -> Iterator[None]:
    """Inside of the block MemoryError is raised where this process takes so much more than it has; on Linux.

    It counts from what there is, with the stacks of all threads: the more cores, the more of those.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if (before := _data_bytes()) is not None:
        within = [limit for limit in (before + more_bytes, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(within), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def free_bytes() -> int:
    """What this process may still take: of the machine, or of its control group where that has less left."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    amounts = [_meminfo_available() or pages, _control_group_left()]
    return min(amount for amount in amounts if amount is not None)


def resident_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not tell."""
    return _statm_bytes(1)


def _data_bytes() -> int | None:
    """What counts for RLIMIT_DATA."""
    return _statm_bytes(5)


def _statm_bytes(column: int) -> int | None:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column]) * resource.getpagesize()
    except OSError:
        return None


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _control_group_left() -> int | None:
    """Of what the control group may have: all but what its processes hold; files in the page cache make room."""
    for folder, limit_file, used_file, prefix in _CONTROL_GROUPS:
        group = CONTROL_GROUPS / folder
        try:
            limit = int((group / limit_file).read_text(encoding="ascii"))  # "max", which is no number, is no limit
            used = int((group / used_file).read_text(encoding="ascii"))
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        stat = dict(line.split() for line in lines)
        cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        return max(limit - used + cached, 0)
    return None


def pages_as_needed(shape: tuple[int, ...], dtype: type[Number]) -> npt.NDArray[Number]:
    """Zeros whose memory is taken page by page when first written, never in huge pages.

    A huge page is zeroed as a whole at the first touch of any of it: for a cache of which every slot begins elsewhere
    that is hundreds of milliseconds in the middle of a step, and memory for tokens that never come.
    """
    count = int(np.prod(shape))
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype, count).reshape(shape)


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
