"""A server for a measurement: `ml-service serve` on a free port, ended when the block ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil


@dataclass(frozen=True)
class RunningServer:
    """A client of the server, and what its process used."""

    client: httpx.Client
    process: psutil.Process

    def resident_mib(self) -> float:
        """Memory that the process holds now."""
        return float(self.process.memory_info().rss / 2**20)

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says, by name and labels."""
        lines = self.client.get("/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def post_first(self, body: dict[str, object]) -> httpx.Response:
        """Ask as soon as the server listens. Raises SystemExit where it ended instead."""
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            try:
                return self.client.post("/forward", json=body).raise_for_status()
            except httpx.ConnectError:
                time.sleep(0.005)
        raise SystemExit("the server ended before it answered")


@contextmanager
def running_server(
    bundle: Path | None, *, store: Path | None = None, shows_log: bool = False, **variables: str
) -> Iterator[RunningServer]:
    """Start `ml-service serve` and end it after the block; its store is a new one where none is given.

    `variables` are settings by their names in lower case.
    """
    with socket.socket() as free, tempfile.TemporaryDirectory() as fresh:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        own = {"store": str(store or fresh), **variables}
        environment = os.environ | {f"ML_SERVICE_{name.upper()}": value for name, value in own.items()}
        command = [sys.executable, "-m", "ml_service.cli", "serve", "--port", str(port)]
        command += ["--bundle", str(bundle)] if bundle is not None else []
        process = subprocess.Popen(command, stderr=None if shows_log else subprocess.DEVNULL, env=environment)
        with _ended_with_the_block(process), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            yield RunningServer(client, psutil.Process(process.pid))


@contextmanager
def _ended_with_the_block(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait()
