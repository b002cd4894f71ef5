"""glibc's allocator: keep freed pages while training, give them back to the system after a swap."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 30


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
