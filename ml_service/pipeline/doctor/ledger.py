"""The service's database as the doctor reads it: nothing is written, no folder made, nobody waited for."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

from sqlalchemy import create_engine, event, make_url

from ml_service.common.settings import Settings
from ml_service.data.database import SQLITE_FILE, Database

_PATIENCE_S = 3.0


class Ledger:
    """Where the database is, and a way to read it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def sqlite_file(self) -> Path | None:
        """None where it is PostgreSQL."""
        address = self._settings.database_address
        if address is None:
            return self._settings.store / SQLITE_FILE
        url = make_url(address)
        return Path(url.database or "") if url.get_backend_name() == "sqlite" else None

    @property
    def exists(self) -> bool:
        """Whether there is anything to read; of PostgreSQL that is not known before it is asked."""
        return self.sqlite_file is None or self.sqlite_file.is_file()

    def open(self) -> Database:
        """Raises FileNotFoundError where there is no database yet."""
        if not self.exists:
            raise FileNotFoundError(f"{self.sqlite_file} is not there yet")
        return ReadOnlyDatabase(self._settings, self.sqlite_file)


class ReadOnlyDatabase(Database):
    """It answers, and changes nothing."""

    def __init__(self, settings: Settings, sqlite_file: Path | None) -> None:
        super().__init__(settings.database_address, settings.store, _PATIENCE_S)
        if sqlite_file is None:
            event.listen(self._engine, "connect", _read_only)
            return
        # Where nobody has it open there is no log beside it, and reading it in the usual way would make one.
        is_in_use = sqlite_file.with_name(f"{sqlite_file.name}-wal").exists()
        address = f"{sqlite_file.resolve().as_uri()}?mode=ro" + ("" if is_in_use else "&immutable=1")
        self._engine.dispose()
        self._engine = create_engine("sqlite://", creator=partial(_open_sqlite, address))


def _open_sqlite(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, timeout=_PATIENCE_S, check_same_thread=False)


def _read_only(connection: object, _: object) -> None:
    connection.set_session(readonly=True)  # type: ignore[attr-defined]
