"""The doctor: each thing that can be wrong is broken, and what it says is read; it changes nothing and never hangs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ml_service.common.bundle import GRAPH_FILE
from ml_service.common.settings import PROJECT, Settings
from ml_service.data import staging
from ml_service.data.api_keys import ApiKeys
from ml_service.data.database import SQLITE_FILE, Database, now
from ml_service.data.deployments import Order
from ml_service.data.experiments import Experiments
from ml_service.data.jobs import Jobs
from ml_service.data.replicas import Replicas
from ml_service.data.schema import VERSION_TABLE, migrate
from ml_service.data.tables import Replica
from ml_service.pipeline.deploy import Deployer
from ml_service.pipeline.doctor import (
    database_check,
    machine_check,
    model_check,
    network_check,
    settings_check,
    store_check,
    versions_check,
)
from ml_service.pipeline.doctor.finding import Check, Finding, Patient, examine, ok
from ml_service.pipeline.doctor.ledger import Ledger
from ml_service.pipeline.doctor.mounts import file_system_of, is_on_network
from ml_service.pipeline.doctor.visit import visit


def patient_of(settings: Settings) -> Patient:
    return Patient(settings, Ledger(settings))


def told(check: Check, settings: Settings) -> list[Finding]:
    return list(check(patient_of(settings)))


def only(findings: Iterable[Finding], verdict: str) -> Finding:
    (found,) = [finding for finding in findings if finding.verdict == verdict]
    assert found.advice is not None, "who is told that something is wrong is told what to do"
    return found


def is_well(findings: Iterable[Finding]) -> bool:
    return {finding.verdict for finding in findings} == {"ok"}


@pytest.fixture
def known(settings: Settings, database_url: str | None, database: Database) -> Settings:
    """With a database of either kind, migrated."""
    migrate(database)
    changes = {"database_url": None if database_url is None else Settings(database_url=database_url).database_url}
    return settings.model_copy(update={"port": 0, **changes})


def test_a_service_that_is_as_it_should_be_is_told_so(known: Settings) -> None:
    findings = list(visit(known))
    assert not [finding for finding in findings if finding.verdict == "fail"]
    subjects = {finding.subject for finding in findings}
    assert {"settings", "exposure", "database", "jobs", "disk", "leftovers", "model", "memory"} <= subjects
    assert {"python", "libraries", "operators", "onnxruntime", "gpu", "port", "limits", "clock"} <= subjects


def test_nothing_is_changed_in_a_store_that_is_not_there_nor_in_one_that_is(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"port": 0})
    fresh = settings.model_copy(update={"store": tmp_path / "nowhere" / "store"})
    assert not [finding for finding in visit(fresh) if finding.verdict == "fail"]
    assert not (tmp_path / "nowhere").exists()
    database = Database(None, settings.store)
    migrate(database)
    database.close()
    before = _state_of(settings.store)
    list(visit(settings))
    assert _state_of(settings.store) == before


def _state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_check_that_hangs_is_not_waited_for_and_one_that_breaks_is_told(settings: Settings) -> None:
    waits = threading.Event()

    def hangs(_: Patient) -> list[Finding]:
        waits.wait(60)
        return []

    def breaks(_: Patient) -> list[Finding]:
        raise RuntimeError("a bug of ours")

    checks: dict[str, Check] = {"one": hangs, "two": breaks, "three": lambda _: [ok("three", "fine")]}
    started = time.monotonic()
    one, two, three = [findings[0] for findings in examine(patient_of(settings), checks, 0.2)]
    assert time.monotonic() - started < 30
    waits.set()
    assert (one.verdict, one.found) == ("fail", "no answer within 0.2 s")
    assert (two.verdict, two.found, three.verdict) == ("fail", "a bug of ours", "ok")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ML_SERVICE_SLOT", "3", "there is no setting ML_SERVICE_SLOT; README lists all"),
        ("ML_SERVICE_SLOTS", "many", "ML_SERVICE_SLOTS: Input should be a valid integer"),
    ],
)
def test_settings_that_are_wrong_are_named_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("ML_SERVICE_PORT", "8123")
    settings, findings = settings_check.read_settings()
    assert only(findings, "fail").found.startswith(sentence)
    assert settings.port == 8123


def test_doors_that_stand_open_or_have_no_key_are_told(known: Settings, database: Database) -> None:
    def exposure(**changes: object) -> Finding:
        found = told(settings_check.settings_are_safe, known.model_copy(update=changes))
        return next(finding for finding in found if finding.subject == "exposure")

    assert exposure().verdict == "ok"
    assert exposure(host="0.0.0.0", allow_open_network=True).verdict == "warn"
    without = exposure(host="0.0.0.0")
    assert (without.verdict, "ml-service keys create" in (without.advice or "")) == ("fail", True)
    ApiKeys(database).create("one", ["infer"], "tests")
    assert exposure(host="0.0.0.0").verdict == "ok"


def test_a_short_key_and_traces_that_nobody_gets_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://there:4318")
    short = settings.model_copy(update={"api_key": Settings(api_key="short").api_key})  # type: ignore[arg-type]
    found = {finding.subject: finding for finding in told(settings_check.settings_are_safe, short)}
    assert "ML_SERVICE_OTLP_ENDPOINT=http://there:4318" in (found["traces"].advice or "")
    assert any("short enough to guess" in finding.found for finding in told(settings_check.settings_are_safe, short))


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


def test_a_full_disk_one_that_cannot_be_written_and_a_slow_one_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.store.mkdir(exist_ok=True)
    assert is_well(told(store_check.disk_suffices, settings))
    usage = shutil.disk_usage(settings.store)
    monkeypatch.setattr(store_check.shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))
    assert "507" in (only(told(store_check.disk_suffices, settings), "fail").advice or "")
    monkeypatch.setattr(store_check.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000_000))
    assert "ML_SERVICE_MAX_UPLOAD_BYTES" in (only(told(store_check.disk_suffices, settings), "warn").advice or "")
    monkeypatch.undo()
    monkeypatch.setattr(store_check, "_SLOW_FSYNC_MS", -1.0)
    assert "fsync takes" in only(told(store_check.disk_suffices, settings), "warn").found
    monkeypatch.setattr(store_check.os, "access", lambda *_: False)
    assert "cannot be written" in only(told(store_check.disk_suffices, settings), "fail").found


def test_folders_of_killed_intakes_are_told(settings: Settings) -> None:
    folder = staging.create(settings.store)
    assert is_well(told(store_check.nothing_is_left_over, settings))
    os.utime(folder.path, (time.time() - 7200,) * 2)
    assert "1 upload folder" in only(told(store_check.nothing_is_left_over, settings), "warn").found
    folder.release()


def test_a_model_that_does_not_prove_itself_is_told_the_active_one_first(
    settings: Settings, bundle: Path, tmp_path: Path
) -> None:
    assert is_well(told(model_check.model_proves_itself, settings))
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / GRAPH_FILE).write_bytes(b"not a graph")
    given = settings.model_copy(update={"bundle": broken})
    found = only(told(model_check.model_proves_itself, given), "fail")
    assert "not the file that the manifest describes" in found.found
    database = Database(None, settings.store)
    migrate(database)
    experiments = Experiments(database, settings.store)
    imported = experiments.import_bundle(bundle, "tests")
    Deployer(database, settings).deploy(Order(imported.id, "tests", "to begin with"))
    (experiments.bundle_of(imported.id).path / GRAPH_FILE).unlink()
    database.close()
    active = settings.model_copy(update={"bundle": None})
    found = only(told(model_check.model_proves_itself, active), "fail")
    assert found.found.startswith(f"experiment {imported.id}, the active one")
    assert "ml-service rollback" in (found.advice or "")


def test_too_little_memory_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = settings.model_copy(update={"prefix_cache_mib": 1 << 30})
    assert "ML_SERVICE_PREFIX_CACHE_MIB" in only(told(model_check.memory_suffices, greedy), "fail").found
    monkeypatch.setattr(model_check, "free_bytes", lambda: 100 << 20)
    assert "train elsewhere" in (only(told(model_check.memory_suffices, settings), "warn").advice or "")


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


def test_the_verb_tells_in_lines_or_json_and_its_exit_code(tmp_path: Path) -> None:
    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ML_SERVICE_STORE": str(tmp_path), "ML_SERVICE_PORT": "0"} | variables
        command = [sys.executable, "-m", "ml_service.cli", "doctor", *words]
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)

    well = run("--json")
    told = json.loads(well.stdout)
    assert (well.returncode, told["ok"], told["failed"]) == (0, True, 0), well.stdout + well.stderr
    wrong = run(ML_SERVICE_NONE="1")
    assert wrong.returncode == 1
    assert "FAIL  settings     there is no setting ML_SERVICE_NONE" in wrong.stdout
    assert "\x1b[" not in wrong.stdout, "colours are for terminals"
    assert not list(tmp_path.iterdir())
