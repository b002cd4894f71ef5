"""Looks at the store in the background and tells Prometheus' instruments: a scrape waits for no database or disk."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from lib.background import beside
from ml_service.common.errors import Unavailable
from ml_service.data.database import Database
from ml_service.data.store_figures import store_figures
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry

log = EventLogger("store_watch")
EVERY_S = 5.0
_REST = 50
"""A look that takes its time is taken less often: it is no more than a fiftieth of the database's work."""
PATIENCE_S = 10.0
"""A look that takes longer finds a database that is away, whatever it may say in the end."""


class StoreWatch:
    """One look at a time."""

    def __init__(self, database: Database, store: Path, telemetry: Telemetry, patience_s: float = PATIENCE_S) -> None:
        self._database, self._store, self._telemetry = database, store.resolve(), telemetry
        self._patience_s = patience_s

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While the block runs; there are figures from its beginning."""
        await self.look()
        async with beside(self._watch()):
            yield

    async def look(self) -> None:
        """Look now."""
        look = asyncio.ensure_future(asyncio.to_thread(self._look))
        done, _ = await asyncio.wait((look,), timeout=self._patience_s)
        if not done:
            self._telemetry.tell_store(None)
        await look

    async def _watch(self) -> None:
        took_s = 0.0
        while True:
            await asyncio.sleep(max(EVERY_S, _REST * took_s))
            started = time.perf_counter()
            await self.look()
            took_s = min(time.perf_counter() - started, 1.0)  # one that hung says nothing of the next

    def _look(self) -> None:
        try:
            self._telemetry.tell_store(store_figures(self._database))
        except Unavailable:  # who follows the slot has logged it
            self._telemetry.tell_store(None)
        except Exception:  # whatever it was: figures that stand still would be believed
            log.exception("store_watch.failed")
            self._telemetry.tell_store(None)
        with suppress(OSError):
            usage = shutil.disk_usage(next(each for each in (self._store, *self._store.parents) if each.exists()))
            self._telemetry.store_size.set(usage.total)
            self._telemetry.store_free.set(usage.free)
