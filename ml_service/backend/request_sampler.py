"""Samples answered requests for the request log: a note on the event loop, rows in the background."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from ml_service.common.errors import ServiceError
from ml_service.common.settings import Settings
from ml_service.data.request_log import RequestLog
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Finished, Sequence
from ml_service.utils.logs import EventLogger, request_path

log = EventLogger("requests")
_WRITE_EVERY_S = 1.0
_LONGEST_QUEUE = 10_000
"""While the database is away so many wait, then the oldest go: it is a sample anyway."""


class RequestSampler:
    """Notes a share of the requests; with `request_log_texts` their prompts and answers too."""

    def __init__(self, requests: RequestLog, settings: Settings) -> None:
        self._requests, self._settings = requests, settings
        self._queue: deque[dict[str, Any]] = deque(maxlen=_LONGEST_QUEUE)

    def note(self, model: LiveModel, sequence: Sequence, end: Finished) -> None:
        """A request was answered; called on the event loop, in the request's own context."""
        if random.random() >= self._settings.request_log_share:
            return
        texts: dict[str, str | None] = {"prompt": None, "answer": None}
        if self._settings.request_log_texts:
            decode = model.engine.decode
            texts = {"prompt": decode(sequence.prompt_ids), "answer": decode(sequence.answered(end).ids)}
        self._queue.append(
            {
                "request_id": sequence.id,
                "route": (request_path.get() or "")[:64],
                "experiment_id": model.experiment_id,
                "generation": model.generation,
                "prompt_tokens": end.usage.prompt_tokens,
                "completion_tokens": end.usage.completion_tokens,
                "finish_reason": end.reason,
                "timings": asdict(end.timings),
                **texts,
            }
        )

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write what was noted, inside of the block and at its end."""
        task = asyncio.create_task(self._write_on_and_on())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(ServiceError):
                await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write all that waits. Raises Unavailable, and it goes on waiting."""
        rows = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            self._requests.write(rows)
        except ServiceError:
            self._queue.extendleft(reversed(rows[-(_LONGEST_QUEUE - len(self._queue)) :]))
            raise

    async def _write_on_and_on(self) -> None:
        is_away = False
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            try:
                await asyncio.to_thread(self.write)
                is_away = False
            except ServiceError as error:
                if not is_away:
                    log.warning("requests.wait", reason=str(error))
                is_away = True
