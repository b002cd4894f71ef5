"""A thread that PostgreSQL wakes when a channel is told something; a wake-up only, never the truth."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ml_service.data.database import Database

_RETRY_S = 2.0


class Listener:
    """Calls `wake` from its own thread; where the database is away it tries again, and who polls loses nothing."""

    def __init__(self, database: Database, channel: str, wake: Callable[[], None]) -> None:
        self._database, self._channel, self._wake = database, channel, wake
        self._stopped = threading.Event()
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; blocks until it is gone."""
        self._stopped.set()
        os.write(self._end, b".")
        self._thread.join()
        os.close(self._ended)
        os.close(self._end)

    def _run(self) -> None:
        driver_error = self._database.engine.dialect.loaded_dbapi.Error
        while not self._stopped.is_set():
            with contextlib.suppress(SQLAlchemyError, driver_error):
                self._listen()
            self._stopped.wait(_RETRY_S)

    def _listen(self) -> None:
        with self._database.engine.connect() as connection:
            connection.detach()  # it is ours for good: none of the pool's
            connection.execute(text(f"LISTEN {self._channel}"))
            connection.commit()
            driver: Any = connection.connection.dbapi_connection
            self._wake()  # for what was told before we heard
            while True:
                ready, _, _ = select.select([driver, self._ended], [], [])
                if self._ended in ready:
                    return
                try:
                    driver.poll()
                except self._database.engine.dialect.loaded_dbapi.Error:
                    connection.invalidate()  # else it would be reset, which fails, too, and fills the log
                    raise
                if driver.notifies:
                    driver.notifies.clear()
                    self._wake()
