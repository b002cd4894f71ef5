"""The doctor: database, jobs, libraries, port and limits are broken one by one, and what it says is read."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ml_service.common.settings import Settings
from ml_service.data.database import SQLITE_FILE, Database, now
from ml_service.data.jobs import Jobs
from ml_service.data.replicas import Replicas
from ml_service.data.schema import VERSION_TABLE, migrate
from ml_service.data.tables import Replica
from ml_service.pipeline.doctor import (
    database_check,
    machine_check,
    network_check,
    versions_check,
)
from ml_service.pipeline.doctor.mounts import file_system_of, is_on_network
from tests.doctor_world import is_well, known, only, told

__all__ = ["known"]


def test_a_database_that_is_away_is_told_with_its_own_words(settings: Settings) -> None:
    (settings.store / SQLITE_FILE).parent.mkdir(exist_ok=True)
    (settings.store / SQLITE_FILE).write_bytes(b"this is no database, and long enough to be read as one" * 100)
    broken = only(told(database_check.database_works, settings), "fail")
    assert "not a database" in broken.found
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)  # takes the connection and says nothing
        url = f"postgresql://u:secretword@127.0.0.1:{silent.getsockname()[1]}/x"
        away = settings.model_copy(update={"database_url": Settings(database_url=url).database_url})  # type: ignore[arg-type]
        started = time.monotonic()
        found = told(database_check.database_works, away)
        assert time.monotonic() - started < 30
    hanging = only(found, "fail")
    assert "secretword" not in f"{hanging.found} {hanging.advice}"
    refused = settings.model_copy(
        update={"database_url": Settings(database_url="postgresql://u@127.0.0.1:1/x").database_url}  # type: ignore[arg-type]
    )
    assert "refused" in only(told(database_check.database_works, refused), "fail").found


def test_a_schema_of_another_version_is_told(known: Settings, database: Database) -> None:
    from sqlalchemy import text

    assert is_well(told(database_check.database_works, known))
    for revision, verdict, words in (("0001", "warn", "back it up"), ("9999", "fail", "install the version")):
        with database.writing() as session:
            session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :v"), {"v": revision})
        found = only(told(database_check.database_works, known), verdict)
        assert words in (found.advice or "")


def test_a_network_file_system_is_known_by_its_mount_point(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "none / ext4 rw 0 0\nserver:/x /srv/my\\040files nfs4 rw 0 0\nnone /srv/my\\040files/in tmpfs rw\n"
    )
    assert file_system_of(Path("/srv/my files/store"), mounts) == "nfs4"
    assert file_system_of(Path("/srv/my files/in/x"), mounts) == "tmpfs"
    assert file_system_of(Path("/home"), mounts) == "ext4"
    assert (is_on_network("nfs4"), is_on_network("fuse.sshfs"), is_on_network("overlay")) == (True, True, False)


def test_sqlite_on_a_network_file_system_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(None, settings.store)
    migrate(database)
    database.close()
    monkeypatch.setattr(database_check, "file_system_of", lambda _: "nfs4")
    found = only(told(database_check.database_works, settings), "warn")
    assert "SQLite on nfs4" in found.found and "PostgreSQL" in (found.advice or "")


def test_jobs_without_a_worker_lost_ones_and_failures_are_told(known: Settings, database: Database) -> None:
    clock = now()
    jobs = Jobs(database, clock=lambda: clock, is_gone=lambda _: False)
    assert is_well(told(database_check.jobs_go_on, known))
    with database.writing() as session:
        jobs.queue(session, "retention")
        jobs.queue(session, "feedback", payload={"actor": "tests"})
        jobs.queue(session, "evaluate")
    clock = now() - timedelta(minutes=20)
    with database.writing() as session:
        jobs.queue(session, "retrain")
    assert jobs.claim("elsewhere:1", "a", ["retrain"]) is not None
    lost = only(told(database_check.jobs_go_on, known), "warn")
    assert "no worker has told of it for" in lost.found and "ml-service worker" in (lost.advice or "")
    clock = now() + timedelta(seconds=1)
    claim = jobs.claim("elsewhere:1", "b", ["feedback"])
    assert claim is not None
    with jobs.fenced(claim) as session:
        jobs.end(session, claim, "failed", "the disk was full")
    sentences = [finding.found for finding in told(database_check.jobs_go_on, known)]
    assert any("feedback failed: the disk was full" in sentence for sentence in sentences)


def test_a_replica_that_is_behind_is_told(known: Settings, database: Database) -> None:
    row = Replica(id="r", host="h", pid=7, generation=1, state="behind", detail="experiment 3 cannot be opened")
    Replicas(database).beat(row)
    found = only(told(database_check.jobs_go_on, known), "warn")
    assert found.found == "h:7 is behind: experiment 3 cannot be opened"


def test_libraries_that_are_missing_too_old_or_not_as_locked_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    lock.write_text("numpy==0.0.1\nnobody-has-this==1\n")
    monkeypatch.setattr(versions_check, "LOCK_FILE", lock)
    assert "rather than 0.0.1" in only(told(versions_check.versions_fit, settings), "warn").found
    real = versions_check._version
    monkeypatch.setattr(
        versions_check, "_version", lambda name: {"fastapi": "0.1", "numpy": None}.get(name, real(name))
    )
    found = only(told(versions_check.versions_fit, settings), "fail").found
    assert "fastapi 0.1 is not >=" in found and "numpy is missing" in found


def test_operators_processor_and_gpu_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(versions_check, "processor_flags", lambda: frozenset({"fma"}))
    assert "avx512_vnni" in only(told(versions_check.arithmetic_is_fast, settings), "warn").found
    monkeypatch.setattr(versions_check, "processor_flags", lambda: versions_check.NEEDED_FLAGS)
    monkeypatch.setattr(versions_check, "library_file", lambda: None)
    assert only(told(versions_check.arithmetic_is_fast, settings), "warn").found == "not compiled"
    tool = tmp_path / "nvidia-smi"
    for script, verdict in (("exit 9", "warn"), ("echo 'NVIDIA H100, 81559 MiB'", None)):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setattr(versions_check.shutil, "which", lambda _: str(tool))
        (found,) = told(versions_check.gpu_is_used, settings)
        assert verdict is None or found.verdict == verdict
        assert verdict is not None or "NVIDIA H100" in found.found


def test_a_port_is_free_ours_or_named_with_who_has_it(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        taken = settings.model_copy(update={"port": other.getsockname()[1]})
        found = only(told(network_check.port_is_ours_or_free, taken), "fail")
        assert f"(pid {os.getpid()}) has it" in found.found and "ML_SERVICE_PORT" in (found.advice or "")
    assert is_well(told(network_check.port_is_ours_or_free, taken))


@pytest.mark.parametrize(
    ("version", "ready", "verdict", "words"),
    [
        ("0.0.0", {"status": "ok"}, "warn", "version 0.0.0 runs"),
        (None, {"status": "ok", "detail": "stands in"}, "warn", "stands in"),
        (None, {"status": "unavailable", "detail": "no model"}, "fail", "no model"),
    ],
)
def test_the_service_that_runs_is_asked_how_it_is(
    settings: Settings, version: str | None, ready: dict[str, str], verdict: str, words: str
) -> None:
    from importlib.metadata import version as installed

    answers: dict[str, object] = {
        "/openapi.json": {"info": {"title": "ml_service", "version": version or installed("ml-service")}},
        "/health/live": {"status": "ok"},
        "/health/ready": ready,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200 if self.path != "/health/ready" or ready["status"] == "ok" else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    running = settings.model_copy(update={"port": server.server_address[1]})
    found = only(told(network_check.port_is_ours_or_free, running), verdict)
    server.shutdown()
    server.server_close()
    thread.join()
    assert words in found.found


def test_a_collector_that_is_away_is_told(settings: Settings) -> None:
    away = settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:1"})
    assert "refused" in only(told(network_check.collector_is_there, away), "warn").found.lower()


def test_narrow_limits_and_too_many_threads_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_check.resource, "getrlimit", lambda _: (256, 4096))
    assert "ulimit" in (only(told(machine_check.limits_are_wide, settings), "fail").advice or "")
    monkeypatch.setattr(machine_check.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    many = settings.model_copy(update={"threads": 256})
    assert "256 threads" in only(told(machine_check.limits_are_wide, many), "warn").found
