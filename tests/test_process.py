"""A real server process: start, clients who leave, overload, SIGTERM, refusals at start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ml_service.common.bundle import GRAPH_FILE
from ml_service.common.settings import PROJECT

LONG = {"text": "def value_total(count", "max_new_tokens": 40, "temperature": 2.0}


class Server:
    """`ml-service serve` on a free port, with a store of its own where none is given."""

    def __init__(self, bundle: Path | None, **variables: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._store = tempfile.TemporaryDirectory()
        variables = {"store": self._store.name} | variables
        self.store = Path(variables["store"])
        environment = os.environ | {f"ML_SERVICE_{name.upper()}": value for name, value in variables.items()}
        given = [] if bundle is None else ["--bundle", str(bundle)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ml_service.cli", "serve", *given, "--port", str(port)],
            cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        try:
            self.until(self._is_ready, "ready")
        except BaseException:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else ""
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 90  # much is done beside it where all tests run
        while not condition():
            assert time.monotonic() < deadline, f"it never became {what}"
            time.sleep(0.01)

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        self.client.close()
        self._store.cleanup()
        return self.process.returncode, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.client.close()
        self._store.cleanup()


@pytest.fixture
def server(bundle: Path) -> Iterator[Server]:
    server = Server(bundle, slots="1", max_waiting="1", threads="1")
    yield server
    server.kill()


def keep_busy(server: Server, requests: int) -> list[httpx.Client]:
    """Clients with an answer under way; the slot and the waiting place are taken when this returns."""
    clients = [httpx.Client(base_url=server.client.base_url, timeout=60) for _ in range(requests)]
    for client in clients:
        threading.Thread(target=_swallow, args=(client,), daemon=True).start()
    return clients


def _swallow(client: httpx.Client) -> None:
    try:
        while True:
            client.post("/forward", json=LONG)
    except (httpx.TransportError, RuntimeError):
        return


def test_a_server_answers_drains_and_ends_with_code_0(server: Server) -> None:
    assert server.client.post("/forward", json=LONG).status_code == 200
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            answers.append(client.post("/forward", json=LONG | {"max_new_tokens": 40}))
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    server.until(lambda: server.metric("ml_service_num_requests_running") >= 1 or done.is_set(), "busy")
    code, errors = server.stop()
    assert code == 0, errors
    assert done.wait(10)
    assert answers[0].status_code == 200
    assert "server.drained left=0" in errors


def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    for streams in (False, True):
        before = server.metric('ml_service_requests_finished_total{finish_reason="abort"}')

        def left(streams: bool = streams, before: float = before) -> bool:
            body = json.dumps(LONG | {"stream": streams})
            head = "POST /forward HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
            with socket.create_connection((server.client.base_url.host, server.client.base_url.port)) as connection:
                connection.sendall(request.encode())
                time.sleep(0.002)
            return server.metric('ml_service_requests_finished_total{finish_reason="abort"}') > before

        server.until(left, "aborted")  # a small model may be done before its client has left: try again
        server.until(lambda: server.metric("ml_service_num_requests_running") == 0, "free")
    assert server.client.post("/forward", json=LONG).status_code == 200
    assert server.metric('http_requests_total{handler="/forward",method="POST",status="500"}') == 0
    assert server.metric('http_requests_total{handler="/forward",method="POST",status="499"}') >= 1


def test_overload_is_429_with_a_time_to_come_back_and_passes(server: Server) -> None:
    clients = keep_busy(server, 6)
    refused: list[httpx.Response] = []

    def is_refused() -> bool:
        answer = server.client.post("/forward", json=LONG)
        if answer.status_code == 429:
            refused.append(answer)
        return bool(refused)

    server.until(is_refused, "full")
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].json()["title"] == "overloaded"
    for client in clients:
        client.close()
    server.until(lambda: server.client.post("/forward", json=LONG).status_code == 200, "itself again")


def start(store: Path, bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ml_service.cli", "serve", "--bundle", str(bundle), "--port", "0", *arguments]
    command += ["--store", str(store)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def test_a_bundle_that_cannot_be_trusted_is_refused_at_start_in_one_sentence(bundle: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / GRAPH_FILE).write_bytes(b"not a graph")
    refused = start(tmp_path, broken)
    assert refused.returncode == 1
    assert refused.stderr.strip().startswith("ml-service: model.onnx is not the file that the manifest describes")
    assert "Traceback" not in refused.stderr
    missing = start(tmp_path, tmp_path / "nothing")
    assert missing.returncode == 1
    assert "there is no bundle" in missing.stderr


def test_listening_beyond_this_machine_wants_a_key(bundle: Path, tmp_path: Path) -> None:
    refused = start(tmp_path, bundle, "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert "ML_SERVICE_API_KEY" in refused.stderr


def test_a_picture_is_read_beside_the_real_event_loop() -> None:
    server = Server(None, slots="2", threads="1")
    picture = (PROJECT / "data" / "samples" / "code.png").read_bytes()
    answer = server.client.post("/forward", files={"image": ("code.png", picture)}, data={"max_new_tokens": "4"})
    images = server.metric("ml_service_images_total")
    code, errors = server.stop()
    assert answer.status_code == 200, errors
    assert "def " in answer.json()["read"]["text"]
    assert images == 1
    assert code == 0
