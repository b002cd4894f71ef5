"""A service to break: PostgreSQL, a server and a worker, each started again when it dies, as an orchestrator does."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.databases import Cluster

VICTIMS = ("server", "worker", "trainer", "database")
_LOOK_EVERY_S = 0.1


class Stack:
    """The processes of a service over one store."""

    def __init__(self, store: Path, bundle: Path) -> None:
        self.store, self.bundle = store, bundle
        self.cluster = Cluster()
        self.database_url = self.cluster.create()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.killed: Counter[str] = Counter()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._log = (store / "chaos.log").open("ab")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All of it, until the block ends."""
        self._keeper.start()
        try:
            yield
        finally:
            self._ends.set()
            self._keeper.join()
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.wait()
            self.cluster.close()
            self._log.close()

    def kill(self, victim: str, dice: random.Random) -> bool:
        """kill -9; whether there was such a process."""
        found = [self.cluster.pid()] if victim == "database" else self._pids_of(victim)
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(found), 9)
        self.killed[victim] += 1
        return True

    def _pids_of(self, victim: str) -> list[int]:
        if victim != "trainer":
            process = self._processes.get(victim)
            return [process.pid] if process is not None and process.poll() is None else []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self._processes["worker"].pid).children(recursive=True)]
        return []

    def _keep(self) -> None:
        while not self._ends.wait(_LOOK_EVERY_S):
            if not self.cluster.is_running():
                self.cluster.start_again()
            for name, words in {
                "server": ["serve", "--port", self.url.rpartition(":")[2]],
                "worker": ["worker"],
            }.items():
                process = self._processes.get(name)
                if process is None or process.poll() is not None:
                    command = [sys.executable, "-m", "ml_service.cli", *words]
                    self._processes[name] = subprocess.Popen(
                        command, env=self._environment(name), stdout=self._log, stderr=self._log
                    )

    def _environment(self, name: str) -> dict[str, str]:
        own = {"STORE": str(self.store), "DATABASE_URL": self.database_url, "WORKER": "separate", "SLOTS": "8"}
        if name == "server" and not self._processes:  # what it finds deployed it serves from then on
            own["BUNDLE"] = str(self.bundle)
        return os.environ | {f"ML_SERVICE_{key}": value for key, value in own.items()}


def wait_until(is_so: object, what: str, patience_s: float = 120.0) -> None:
    """Ask again and again. Raises SystemExit where it does not come true."""
    assert callable(is_so)
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(Exception):
            if is_so():
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"BROKEN: {what} did not come true within {patience_s:.0f} s")
        time.sleep(0.2)
