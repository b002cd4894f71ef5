"""A service to break: a database, a server and a worker, each started again when it dies, as an orchestrator does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil

from tests.chaos.report import RESULTS
from tests.databases import Cluster

VICTIMS = ("server", "worker", "trainer", "database")
_LOOK_EVERY_S = 0.1
_IN_A_HURRY = """
import ml_service.pipeline.worker
from ml_service.cli import main
ml_service.pipeline.worker.run_when_idle = lambda: None
main()
"""
"""A worker that gives way to nobody: on a machine with other work it would otherwise never come to what is tried."""


class Stack:
    """The processes of a service over one store."""

    def __init__(
        self,
        store: Path,
        bundle: Path | None = None,
        *,
        has_postgresql: bool = True,
        has_worker: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` by their names in lower case. Without PostgreSQL the database is SQLite in the store."""
        self.store, self._bundle, self._settings = store, bundle, dict(settings or {})
        self.cluster = Cluster() if has_postgresql else None
        self.database_url = self.cluster.create() if self.cluster is not None else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.killed: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()
        self._timers: list[threading.Timer] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = threading.Event()
        self._may_be_started = {"server", "database", *(["worker"] if has_worker else [])}
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        self._log = (RESULTS / f"{Path(sys.argv[0]).stem}.log").open("wb")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All of it, until the block ends; it is ready when the block begins."""
        self._keeper.start()
        try:
            wait_until(self.is_ready, "the first start")
            yield
        finally:
            for timer in self._timers:
                timer.join()
            self._ends.set()
            self._keeper.join()
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.wait()
            if self.cluster is not None:
                self.cluster.close()
            self._log.close()

    def is_ready(self) -> bool:
        """Whether the server can be asked."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """Server or worker, as it was started last."""
        return self._processes[name]

    def resident_mib(self) -> float:
        """Memory that the server's process holds now."""
        return float(psutil.Process(self._processes["server"].pid).memory_info().rss / 2**20)

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says, by name and labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def at_work(self) -> int:
        """Requests that an engine answers, or that wait for one."""
        names = ("ml_service_num_requests_running", "ml_service_num_requests_waiting")
        return int(sum(value for name, value in self.metrics().items() if name.startswith(names)))

    def kill(self, victim: str, dice: random.Random) -> bool:
        """kill -9; whether there was such a process."""
        found = self._pids_of(victim)
        if not found:
            return False
        try:
            os.kill(dice.choice(found), signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself
            return False
        self.killed[victim] += 1
        return True

    def stop_for(self, victim: str, seconds: float, dice: random.Random) -> bool:
        """It hangs for so long: its process neither works nor ends. Returns at once; whether there was such a one."""
        found = self._pids_of(victim)
        if not found:
            return False
        try:
            process = psutil.Process(dice.choice(found))
            process.suspend()
        except psutil.NoSuchProcess:
            return False
        timer = threading.Timer(seconds, _resume, (process,))
        timer.start()
        self._timers.append(timer)
        self.stopped[victim] += 1
        return True

    @contextlib.contextmanager
    def left_alone(self, name: str) -> Iterator[None]:
        """In the block nobody starts that process again."""
        self._may_be_started.discard(name)
        try:
            yield
        finally:
            self._may_be_started.add(name)

    @contextlib.contextmanager
    def database_gone(self, how: str) -> Iterator[None]:
        """In the block the database is away: `killed`, `stopped` in order, or `hanging`."""
        if how == "hanging":
            with self._cluster.hanging():
                yield
            return
        with self.left_alone("database"):
            if how == "killed":
                os.kill(self._cluster.pid(), signal.SIGKILL)
            else:
                self._cluster.stop("fast")
            yield

    @property
    def _cluster(self) -> Cluster:
        assert self.cluster is not None, "the database of this stack is a file"
        return self.cluster

    def _pids_of(self, victim: str) -> list[int]:
        if victim == "database":
            with contextlib.suppress(OSError, ValueError, IndexError):  # its file comes and goes while it starts
                return [self._cluster.pid()]
            return []
        if victim != "trainer":
            process = self._processes.get(victim)
            return [process.pid] if process is not None and process.poll() is None else []
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self._processes["worker"].pid).children(recursive=True)]
        return []

    def _keep(self) -> None:
        port = self.url.rpartition(":")[2]
        words = {"server": ["-m", "ml_service.cli", "serve", "--port", port], "worker": ["-c", _IN_A_HURRY, "worker"]}
        while not self._ends.wait(_LOOK_EVERY_S):
            if self.cluster is not None and "database" in self._may_be_started and not self.cluster.is_running():
                self.cluster.start_again()
            for name in words.keys() & self._may_be_started:
                process = self._processes.get(name)
                if process is None or process.poll() is not None:
                    command = [sys.executable, *words[name]]
                    self._processes[name] = subprocess.Popen(
                        command, env=self._environment(name), stdout=self._log, stderr=self._log
                    )

    def _environment(self, name: str) -> dict[str, str]:
        own = {"store": str(self.store), "worker": "separate", "training_threads": "1"} | self._settings
        if self.database_url is not None:
            own["database_url"] = self.database_url
        if name == "server" and name not in self._processes and self._bundle is not None:
            own["bundle"] = str(self._bundle)  # what it finds deployed it serves from then on
        return os.environ | {f"ML_SERVICE_{key.upper()}": value for key, value in own.items()}


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it was killed meanwhile
        process.resume()


def wait_until(is_so: Callable[[], object], what: str, patience_s: float = 120.0) -> float:
    """Ask again and again; how many seconds it took. Raises SystemExit where it does not come true."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(Exception):
            if is_so():
                return time.monotonic() - began
        if time.monotonic() > began + patience_s:
            raise SystemExit(f"BROKEN: {what} did not come true within {patience_s:.0f} s")
        time.sleep(0.1)
