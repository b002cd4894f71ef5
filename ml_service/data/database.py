"""The database: SQLite in the store or PostgreSQL; sessions that read, sessions that write, locks that die with us."""

from __future__ import annotations

import fcntl
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from ml_service.common.errors import InsufficientStorage, ServiceError, Unavailable
from ml_service.utils.tracing import detail

if TYPE_CHECKING:
    from ml_service.data.hanging import Patience

SQLITE_FILE = "ml_service.db"
_SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON")
_FULL = ("disk is full", "No space left")
_LONGEST_WAIT_S = 60.0
_LOCK_RETRY_S = 0.05


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


class Database:
    """One database; safe to share between threads, not across a fork."""

    def __init__(self, url: str | None, store: Path, longest_wait_s: float = _LONGEST_WAIT_S) -> None:
        """`url` None is SQLite in the store. Nothing is opened before it is needed.

        A PostgreSQL of which nothing is heard for `longest_wait_s` is away. SQLite is a file: it has nobody who could hang.
        """
        self._locks = store / "locks"
        parsed = _parsed(url, store)
        self._patience: Patience | None = None
        if parsed.get_backend_name() == "postgresql":
            from ml_service.data.hanging import Patience  # the driver is for those who have a server

            self._patience = Patience(longest_wait_s)
            self._engine = _postgresql(parsed, self._patience, longest_wait_s)
        else:
            self._engine = _sqlite(parsed)
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
        with self._traced("read"), self._asking(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction: all of the block or nothing. Raises Unavailable, InsufficientStorage.

        On SQLite it is alone from its beginning; on PostgreSQL it locks the rows that it names.
        """
        with self._traced("write"), self._asking():
            with Session(self._writing_engine, expire_on_commit=False) as session, session.begin():
                yield session

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Only one process at a time is in a block of this name; who dies in it leaves it."""
        if self.is_postgresql:
            with self._asking(), self._engine.connect() as connection:
                key = {"key": lock_number(name)}
                # Asked again and again: whoever has it may keep it for longer than a server may take to answer.
                while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key):
                    connection.commit()
                    time.sleep(_LOCK_RETRY_S)
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

    @contextmanager
    def without_limit(self) -> Iterator[None]:
        """What this thread asks for in the block may take its time, a change of the schema for one."""
        if self._patience is None:
            yield
            return
        with self._patience.without_limit():
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

    def _traced(self, what: str) -> AbstractContextManager[None]:
        """A span for each session, where it belongs to one: what the service asks by itself makes none."""
        name = self._engine.dialect.name
        return detail(f"{what} {name}", "client", db__system__name=name)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with _in_our_words():
            if self._patience is None:
                yield
                return
            with self._patience.asking():
                yield


def lock_number(name: str) -> int:
    """PostgreSQL knows its advisory locks by number."""
    return zlib.crc32(f"ml_service:{name}".encode())


def _parsed(url: str | None, store: Path) -> URL:
    if url is None:
        store.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{store.resolve() / SQLITE_FILE}"
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername != "postgresql+psycopg2" and parsed.get_backend_name() != "sqlite":
        raise ValueError(f"ML_SERVICE_DATABASE_URL: {parsed.get_backend_name()} is neither sqlite nor postgresql")
    return parsed


def _postgresql(url: URL, patience: Patience, longest_wait_s: float) -> Engine:
    # A server that vanished without a word must not hold a connection for TCP's own quarter of an hour.
    alive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=16,
        pool_timeout=longest_wait_s,
        connect_args=alive | {"connection_factory": patience.connection_class},
    )
    event.listen(engine, "do_connect", lambda *_: patience.check())
    return engine


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30})
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
    except NoConnectionFree as error:
        raise Unavailable("the database has no connection free", retry_after_s=2) from error
    except (OperationalError, InterfaceError, DBAPIError) as error:
        if any(word in str(error) for word in _FULL):
            raise InsufficientStorage("the database's disk is full") from error
        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            raise Unavailable("the database cannot be reached", retry_after_s=2) from error
        raise
