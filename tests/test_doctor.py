"""The doctor: what a store, its settings and its model lack is told; it changes nothing and never hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ml_service.common.bundle import GRAPH_FILE
from ml_service.common.settings import PROJECT, Settings
from ml_service.data import staging
from ml_service.data.api_keys import ApiKeys
from ml_service.data.database import Database
from ml_service.data.deployments import Order
from ml_service.data.experiments import Experiments
from ml_service.data.schema import migrate
from ml_service.pipeline.deploy import Deployer
from ml_service.pipeline.doctor import (
    model_check,
    settings_check,
    store_check,
)
from ml_service.pipeline.doctor.finding import Check, Finding, Patient, examine, ok
from ml_service.pipeline.doctor.visit import visit
from tests.doctor_world import is_well, known, only, patient_of, told

__all__ = ["known"]


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
        ("ML_SERVICE_SLOT", "3", "there is no setting ML_SERVICE_SLOT;"),
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
    copied = Path(shutil.copytree(bundle, tmp_path / "copied"))  # it is deployed from where it lies
    imported = experiments.import_bundle(copied, "tests")
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
