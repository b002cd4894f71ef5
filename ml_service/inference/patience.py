"""Patience: who has time asks again where all places are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ml_service.common.errors import Overloaded

Result = TypeVar("Result")
_LONGEST_WAIT_S = 1.0


async def when_there_is_room(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Ask until there is a place, as soon as the answer says, and once a second at least."""
    while True:
        try:
            return await ask()
        except Overloaded as full:
            await asyncio.sleep(min(full.retry_after_s, _LONGEST_WAIT_S))
