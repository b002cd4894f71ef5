"""The database: SQLite in the store or PostgreSQL; sessions that read, sessions that write, locks that die with us."""

from __future__ import annotations

import fcntl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from ml_service.common.errors import InsufficientStorage, ServiceError, Unavailable

SQLITE_FILE = "ml_service.db"
_SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON")
_FULL = ("disk is full", "No space left")


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


class Database:
    """One database; safe to share between threads, not across a fork."""

    def __init__(self, url: str | None, store: Path) -> None:
        """`url` None is SQLite in the store. Nothing is opened before it is needed."""
        self._locks = store / "locks"
        self._engine = _engine(url, store)
        self._writing_engine = self._engine.execution_options(writes=True)

    @property
    def is_postgresql(self) -> bool:
        """Whether several machines may share it."""
        return self._engine.dialect.name == "postgresql"

    @property
    def engine(self) -> Engine:
        """For migrations."""
        return self._engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state. Raises Unavailable where the database is away."""
        with _in_our_words(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction: all of the block or nothing. Raises Unavailable, InsufficientStorage.

        On SQLite it is alone from its beginning; on PostgreSQL it locks the rows that it names.
        """
        with _in_our_words(), Session(self._writing_engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Only one process at a time is in a block of this name; who dies in it leaves it."""
        if self.is_postgresql:
            with _in_our_words(), self._engine.connect() as connection:
                key = {"key": lock_number(name)}
                connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
                connection.commit()
                try:
                    yield
                finally:
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
                    connection.commit()
            return
        self._locks.mkdir(parents=True, exist_ok=True)
        with (self._locks / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def notify(self, session: Session, channel: str, payload: str) -> None:
        """Wake those who listen once the transaction is done; on SQLite they look by themselves."""
        if self.is_postgresql:
            session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})

    def lock_for_this_transaction(self, session: Session, name: str) -> None:
        """Wait until no other transaction holds this name; SQLite's writers are alone anyway."""
        if self.is_postgresql:
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_number(name)})

    def close(self) -> None:
        """Let all connections go."""
        self._engine.dispose()


def lock_number(name: str) -> int:
    """PostgreSQL knows its advisory locks by number."""
    return zlib.crc32(f"ml_service:{name}".encode())


def _engine(url: str | None, store: Path) -> Engine:
    if url is None:
        store.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{store.resolve() / SQLITE_FILE}"
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername == "postgresql+psycopg2":
        # A server that vanished without a word must not hold a request for TCP's own quarter of an hour.
        alive = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
        return create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=16, connect_args=alive)
    if parsed.get_backend_name() != "sqlite":
        raise ValueError(f"ML_SERVICE_DATABASE_URL: {parsed.get_backend_name()} is neither sqlite nor postgresql")
    engine = create_engine(parsed, connect_args={"timeout": 30})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin late and only for writes
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except (OperationalError, InterfaceError, DBAPIError) as error:
        if any(word in str(error) for word in _FULL):
            raise InsufficientStorage("the database's disk is full") from error
        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            raise Unavailable("the database cannot be reached", retry_after_s=2) from error
        raise
