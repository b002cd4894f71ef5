"""A stack of docker-compose.yml under a project name of its own: its commands, its containers, its addresses."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from ml_service.common.settings import PROJECT

SERVICES = ("backend", "worker", "frontend", "page", "db", "prometheus")
"""What is started: of Grafana there is no image to be had without a registry."""
PATIENCE_S = 120.0


class Stack:
    """One project of compose. Its methods raise AssertionError with what Docker said."""

    def __init__(self, project: str, *files: str, **variables: str) -> None:
        self.project = project
        self._files = ["docker-compose.yml", *files, "tests/docker/stack.yml"]
        self._ports = {"PORT": str(_free_port()), "PROMETHEUS_PORT": str(_free_port())}
        self.environment = os.environ | self._ports | _sources() | {"TAG": "tests"} | variables
        self.url = f"http://127.0.0.1:{self._ports['PORT']}"
        self.prometheus_url = f"http://127.0.0.1:{self._ports['PROMETHEUS_PORT']}"

    def compose(self, *words: str, timeout_s: float = 300.0, check: bool = True) -> str:
        """What `docker compose WORDS` prints."""
        return _run(self.command(*words), self.environment, timeout_s, check)

    def command(self, *words: str) -> list[str]:
        """`docker compose WORDS` for this stack; run it in `environment`."""
        files = [word for file in self._files for word in ("--file", str(PROJECT / file))]
        return ["docker", "compose", "--ansi", "never", "--project-name", self.project, *files, *words]

    def build(self) -> float:
        """Build what is built; the seconds that it took, which a cache makes few."""
        started = time.perf_counter()
        self.compose("build", "--quiet", "backend", "page", timeout_s=3600)
        return time.perf_counter() - started

    def up(self, *words: str, services: Sequence[str] = SERVICES) -> float:
        """Start it and wait until all is healthy; the seconds that it took."""
        started = time.perf_counter()
        try:
            self.compose("up", "--wait", "--no-build", *words, *services)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None
        return time.perf_counter() - started

    def down(self, *words: str) -> float:
        """Stop and remove the containers; the volumes stay, unless `--volumes` is said."""
        started = time.perf_counter()
        self.compose("down", "--timeout", "90", *words)
        return time.perf_counter() - started

    @contextlib.contextmanager
    def gone_afterwards(self) -> Iterator[None]:
        """With its volumes, too; what it logged is told where the block fails."""
        self.down("--volumes", "--remove-orphans")
        try:
            yield
        except BaseException:
            print(self.logs())
            raise
        finally:
            self.down("--volumes", "--remove-orphans")

    def logs(self, *services: str, lines: int = 40) -> str:
        """The last lines of every container."""
        return self.compose("logs", "--no-color", "--tail", str(lines), *services, check=False)

    def log_lines(self, service: str) -> list[str]:
        """The JSON lines that a service has logged."""
        lines = self.compose("logs", "--no-color", "--no-log-prefix", service).splitlines()
        return ["{" + line.partition("{")[2] for line in lines if "{" in line]  # it tells a terminal to clear each line

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        return self.compose("ps", "--quiet", service).split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        """What Docker knows of a service's containers, those that have ended too."""
        found = self.compose("ps", "--all", "--quiet", service).split()
        return list(json.loads(docker("inspect", *found))) if found else []

    def execute(self, service: str, *words: str, check: bool = True) -> str:
        """What a command prints inside of a service's container."""
        return self.compose("exec", "--no-TTY", service, *words, check=check)

    def kill_nine(self, service: str) -> None:
        """kill -9 of a container's first process, as the kernel does it when memory ends; Docker starts it again."""
        for container in self.inspect(service):
            os.kill(container["State"]["Pid"], 9)

    def client(self, **options: Any) -> httpx.Client:
        """Who asks through nginx."""
        return httpx.Client(base_url=self.url, timeout=60, **options)


def docker(*words: str, timeout_s: float = 120.0) -> str:
    """What `docker WORDS` prints."""
    return _run(["docker", *words], dict(os.environ), timeout_s)


def has_engine() -> bool:
    """Whether a Docker engine with compose answers."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        for words in (["info"], ["compose", "version"]):
            subprocess.run(["docker", *words], capture_output=True, check=True, timeout=30)
        return True
    return False


def until(is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> float:
    """Ask again and again; the seconds that it took. Raises AssertionError where it does not come true."""
    started = time.monotonic()
    while True:
        with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
            if is_so():
                return time.monotonic() - started
        assert time.monotonic() < started + patience_s, f"{what} did not come true within {patience_s:.0f} s"
        time.sleep(0.2)


def _run(command: list[str], environment: dict[str, str], timeout_s: float, check: bool = True) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False, cwd=PROJECT
    )
    assert done.returncode == 0 or not check, f"{' '.join(command[-6:])}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _sources() -> dict[str, str]:
    """Where a build finds certificates and wheels: what pip uses here, else nothing."""
    nothing = Path(tempfile.gettempdir()) / "ml-service-nothing"
    nothing.mkdir(exist_ok=True)
    return {
        "CERTIFICATES": os.environ.get("PIP_CERT") or "/dev/null",
        "WHEELS": os.environ.get("PIP_FIND_LINKS") or str(nothing),
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
