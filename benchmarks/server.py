"""A server for a measurement: `ml-service serve` on a free port, ended when the block ends."""

from __future__ import annotations

import socket
import subprocess
import sys
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
def running_server(bundle: Path, *, shows_log: bool = False) -> Iterator[RunningServer]:
    """Start `ml-service serve` and end it after the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ml_service.cli", "serve", "--bundle", str(bundle), "--port", str(port)]
    process = subprocess.Popen(command, stderr=None if shows_log else subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield RunningServer(client, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()
