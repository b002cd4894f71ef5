"""A signal to a real server: what is under way is finished, what comes then is refused, the second one ends at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from ml_service.common.settings import PROJECT
from tests.test_process import Server

TEXTS = json.dumps({"texts": [f"def value_{number}(count): return {number}" for number in range(50)]}).encode()


@pytest.fixture
def server(bundle: Path) -> Iterator[Server]:
    server = Server(bundle, slots="1", threads="1", worker="separate")
    yield server
    server.kill()


class HalfSent:
    """A request of which the server has the first half."""

    def __init__(self, server: Server, path: str, body: bytes) -> None:
        address = (server.client.base_url.host, server.client.base_url.port)
        self._socket, self._rest = socket.create_connection(address, 30), body[len(body) // 2 :]
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._socket.sendall(f"{head}\r\n\r\n".encode() + body[: len(body) // 2])

    def __enter__(self) -> HalfSent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def finish(self) -> bytes:
        """Send the rest; all of the answer."""
        with contextlib.suppress(ConnectionError):  # it may have been answered by now
            self._socket.sendall(self._rest)
        answer = b""
        while piece := self._socket.recv(1 << 16):
            answer += piece
        return answer


def begin_drain(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.client.get("/health/ready").status_code == 503, "draining")


def test_an_upload_that_has_begun_is_taken_in_and_the_next_one_refused(server: Server) -> None:
    with HalfSent(server, "/add_data", TEXTS) as upload:
        server.until(lambda: (server.store / "datasets" / "staging").is_dir(), "at work")
        begin_drain(server)
        refused = server.client.post("/add_data", json={"texts": ["def late(): return 1"]})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.get("/experiments").status_code == 503
        assert server.client.get("/health").status_code == 200
        answer = upload.finish()
    assert b" 200 " in answer.splitlines()[0] or b" 201 " in answer.splitlines()[0], answer
    _, errors = server.process.communicate(timeout=60)
    assert server.process.returncode == 0, errors


def test_a_client_that_never_ends_its_request_holds_it_up_only_so_long(bundle: Path) -> None:
    server = Server(bundle, slots="1", threads="1", worker="separate", drain_timeout_s="0.5")
    with HalfSent(server, "/forward", b'{"text": "def value("}') as stuck:
        server.client.get("/health")
        began = time.monotonic()
        code, errors = server.stop()
        assert code == 0, errors
        assert 0.4 < time.monotonic() - began < 30
        assert b" 503 " in stuck.finish().splitlines()[0]


def test_the_second_signal_ends_at_once_and_leaves_no_process_behind(server: Server) -> None:
    picture = (PROJECT / "data" / "samples" / "code.png").read_bytes()
    server.client.post("/forward", files={"image": ("code.png", picture)})
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert children, "the process that reads pictures"
    with HalfSent(server, "/add_data", TEXTS):
        server.until(lambda: (server.store / "datasets" / "staging").is_dir(), "at work")
        begin_drain(server)
        server.process.send_signal(signal.SIGTERM)
        server.process.communicate(timeout=10)
    assert server.process.returncode == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_signal_while_it_starts_ends_it_with_code_0(bundle: Path, tmp_path: Path) -> None:
    for wait_s in (0.7, 1.5):
        process = subprocess.Popen(
            [sys.executable, "-m", "ml_service.cli", "serve", "--bundle", str(bundle), "--port", "0"],
            cwd=PROJECT, env=os.environ | {"ML_SERVICE_STORE": str(tmp_path / "store")}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(wait_s)
        while process.poll() is None and _has_default_handler(process.pid):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _has_default_handler(pid: int) -> bool:
    """Whether Python itself still starts: nobody can catch a signal by then."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return not caught >> (signal.SIGTERM - 1) & 1


def test_who_watches_a_training_does_not_hold_up_the_end(server: Server) -> None:
    added = server.client.post("/add_data", content=TEXTS, headers={"Content-Type": "application/json"})
    assert added.status_code < 300, added.text
    wish = {"budget": {"steps": 10}}
    experiment = server.client.post("/retrain", json=wish).raise_for_status().json()["experiment_id"]
    with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
        headers = {"Accept": "text/event-stream"}
        with client.stream("GET", f"/metrics/{experiment}", headers=headers) as events:
            lines = events.iter_lines()
            assert next(lines).startswith("event: state")
            began = time.monotonic()
            code, errors = server.stop()
            assert code == 0, errors
            assert time.monotonic() - began < 15  # of the 30 that a drain may take
            assert "server.drained left=0" in errors


BUSY = """
import time
import ml_service.pipeline.worker as module
from ml_service.cli import main

class Busy(module.Worker):
    def _work_once(self, lane):
        time.sleep(60 if lane == "training" else 0)
        return False

module.run_when_idle = lambda: None
module.Worker = Busy
main()
"""


@pytest.mark.parametrize(("script", "signals", "code"), [("", 1, 0), (BUSY, 2, 128 + signal.SIGTERM)])
def test_a_worker_ends_in_order_when_it_is_asked_and_at_once_the_second_time(
    script: str, signals: int, code: int, tmp_path: Path
) -> None:
    words = ["-c", script] if script else ["-m", "ml_service.cli"]
    with subprocess.Popen(
        [sys.executable, *words, "worker"],
        cwd=PROJECT, env=os.environ | {"ML_SERVICE_STORE": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        assert worker.stderr is not None
        said = iter(worker.stderr)
        assert any("worker.started" in line for line in said)
        for _ in range(signals):
            worker.send_signal(signal.SIGTERM)
            assert any("worker.stopping" in line for line in said)
        assert worker.wait(30) == code
