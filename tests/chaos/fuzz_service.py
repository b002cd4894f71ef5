"""A server to send garbage to: watched for its memory, its log and its health, with something to find in its store."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from ml_service.common.settings import PROJECT

KEY = "key-of-the-fuzzing-client"
SETTINGS = {
    "worker": "separate",  # nobody runs one: trainings are queued and never begin
    "api_key": KEY,
    "max_upload_bytes": str(50 << 20),
    "evaluate_at_once_bytes": str(1 << 30),
    "watch_s": "0",
}
_LOOK_EVERY_S = 0.05
_WRONG = re.compile(
    r"Traceback|\brequest\.failed\b|\bstep\.failed\b|\bsequence\.failed\b|^ERROR:|^\S+ (error|critical) "
)


class Service:
    """`ml-service serve` with the shipped model and a key, on a free port."""

    def __init__(self, folder: Path, database_url: str | None = None) -> None:
        self.store, self.log = folder / "store", folder / "server.log"
        self.store.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        own = SETTINGS | {"store": str(self.store)} | ({"database_url": database_url} if database_url else {})
        environment = os.environ | {f"ML_SERVICE_{name.upper()}": value for name, value in own.items()}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ml_service.cli", "serve", "--port", str(self.port)],
                cwd=PROJECT, env=environment, stdout=log, stderr=log, preexec_fn=os.setpgrp,
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        self.most_mib = 0.0
        self._ends = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends; it has a version of the data set, an evaluation, feedback and queued trainings then."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            self._until_ready()
            self._fill()
            yield
        finally:
            self._ends.set()
            watcher.join()
            self.client.close()
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(60)

    @property
    def resident_mib(self) -> float:
        """Of the server's own process."""
        return float(psutil.Process(self._process.pid).memory_info().rss / 2**20)

    def troubles(self) -> list[str]:
        """What is wrong with it after all that: its process, health, answers, log, and files that were left."""
        found = []
        if self._process.poll() is not None:
            return [f"the server has ended with code {self._process.returncode}"]
        for path in ("/health/live", "/health/ready"):
            answer = self.client.get(path)
            if answer.status_code != 200:
                found.append(f"{path} answers {answer.status_code}: {answer.text[:200]}")
        answer = self.client.post("/forward", json={"text": "import ", "max_new_tokens": 4})
        if answer.status_code != 200:
            found.append(f"/forward answers {answer.status_code}: {answer.text[:200]}")
        busy = {
            line for line in self.client.get("/metrics").text.splitlines()
            if line.startswith(("ml_service_num_requests_running ", "ml_service_num_requests_waiting "))
            and not line.endswith(" 0.0")
        }  # fmt: skip
        found += [f"a place is kept for nobody: {line}" for line in sorted(busy)]
        staged = [path for path in (self.store / "datasets" / "staging").rglob("*") if path.is_file()]
        if staged:
            found.append(f"{len(staged)} files of uploads were left")
        return found + [f"in the log: {line}" for line in self.wrong_lines()[:5]]

    def wrong_lines(self) -> list[str]:
        """Lines of the log that tell of an error of ours."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if _WRONG.search(line)]

    def _until_ready(self, patience_s: float = 60.0) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get("/health/ready").status_code == 200:
                    return
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _fill(self) -> None:
        texts = [f"def value_{number}(count):\n    return count + {number}\n" for number in range(400)]
        budget = {"budget": {"steps": 1}}
        for path, body in (
            ("/add_data", {"texts": texts, "name": "first"}),
            ("/evaluate", {"texts": texts[:3]}),
            ("/retrain", budget),
            ("/retrain", budget | {"experiment_name": "to be cancelled"}),
            ("/experiments/3/cancel", {}),
            ("/feedback", {"request_id": "a", "accepted": False, "prompt": "a", "correction": "b"}),
        ):
            self.client.post(path, json=body).raise_for_status()

    def _watch(self) -> None:
        while not self._ends.wait(_LOOK_EVERY_S):
            with contextlib.suppress(psutil.Error):
                self.most_mib = max(self.most_mib, self.resident_mib)
