"""Work that must not hold up others: done in a thread of little urgency, and so are the threads that it starts."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
_NICENESS = 10


def gently(work: Callable[[], Result]) -> Result:
    """Do it in a thread of its own and wait for it; what it raises is raised here.

    On Linux a thread can be nicer than its process, and threads that it starts are as nice; elsewhere it is one as
    any other. A thread cannot become urgent again without privileges, so it is used once.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="gently")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
