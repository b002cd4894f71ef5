"""How much of a request's time is left: its pictures are read and its text is continued within the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from ml_service.backend.dependencies import settings_of
from ml_service.common.errors import Overloaded

Result = TypeVar("Result")
_LEAST_S = 0.001


class Deadline:
    """When an answer has to end with what there is."""

    def __init__(self, timeout_s: float) -> None:
        """From now on; made where a loop runs."""
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + timeout_s

    @property
    def left_s(self) -> float:
        """Never nothing: who has got so far gets the answer that the engine gives at once."""
        return max(self._at - self._loop.time(), _LEAST_S)

    async def met_by(self, work: Awaitable[Result], what: str) -> Result:
        """What comes of the work; cancelled where it takes longer, and then Overloaded is raised: `what` was wanted."""
        try:
            async with asyncio.timeout_at(self._at):
                return await work
        except TimeoutError as error:
            raise Overloaded(f"the time of this request was over before {what}") from error


async def deadline_of(request: Request, timeout_s: float | None) -> Deadline:
    """What the client wants, or the service allows where that is less."""
    longest_s = (await settings_of(request)).request_timeout_s
    return Deadline(longest_s if timeout_s is None else min(timeout_s, longest_s))
