"""Patience: who has time asks again where all places are taken."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ml_service.common.errors import Overloaded

Result = TypeVar("Result")
_LONGEST_WAIT_S = 1.0


async def when_there_is_room(ask: Callable[[], Awaitable[Result]], patience_s: float | None = None) -> Result:
    """Ask until there is a place, as soon as the answer says, and once a second at least.

    Raises Overloaded once that has taken `patience_s`; None waits on.
    """
    ends = time.monotonic() + patience_s if patience_s is not None else math.inf
    while True:
        try:
            return await ask()
        except Overloaded as full:
            if time.monotonic() >= ends:
                raise
            await asyncio.sleep(min(full.retry_after_s, _LONGEST_WAIT_S))
