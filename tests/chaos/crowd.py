"""People in threads of their own, who use the service from the beginning of a block to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self


class Crowd:
    """`_ends` is set when they are to go home."""

    def __init__(self) -> None:
        self._ends = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _joins(self, do: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=do, args=arguments, daemon=True))
