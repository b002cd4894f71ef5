"""Is there room for a training and an upload, is the disk writable and quick, what was left behind."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from ml_service.data import staging
from ml_service.data.datasets import Datasets
from ml_service.data.schema import HEAD, current_revision
from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn
from ml_service.pipeline.doctor.mounts import file_system_of
from ml_service.pipeline.retrain import room_for_training

SUBJECT = "disk"
_SLOW_FSYNC_MS = 50.0
_FSYNCS = 5
_FEW_INODES = 10_000
_ABANDONED_S = 3600.0


def disk_suffices(patient: Patient) -> Iterator[Finding]:
    """Writable, with room, and quick enough to say when something is safe."""
    store = patient.settings.store
    place = next((each for each in (store, *store.parents) if each.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield fail(SUBJECT, f"{place} cannot be written by uid {os.getuid()}",
                   f"chown it, or set ML_SERVICE_STORE to a directory that can (now {store})")  # fmt: skip
        return
    if not store.exists():
        yield ok(SUBJECT, f"{store} is made at the first start")
    yield from _room(patient, place)
    yield from _speed(place)


def nothing_is_left_over(patient: Patient) -> Iterator[Finding]:
    """Folders of uploads and runs that nobody works in any more."""
    store = patient.settings.store
    old = [token for token in staging.tokens(store) if _age_s(store, token) > _ABANDONED_S]
    if old:
        yield warn("leftovers", f"{len(old)} upload folders, of intakes that were killed or take over an hour",
                   "the service removes them at its next start")  # fmt: skip
    else:
        yield ok("leftovers", "none")


def _room(patient: Patient, place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    training, upload = room_for_training(_data_bytes(patient)), 2 * patient.settings.max_upload_bytes
    told = f"{_gb(free)} free; a training takes {_gb(training)}, the largest upload {_gb(upload)}"
    make_room = f"make room on {place} ({file_system_of(place)}): ml-service retention, or remove experiments"
    if free < training:
        yield fail(SUBJECT, told, f"{make_room}: trainings are refused with 507")
    elif free < upload:
        yield warn(SUBJECT, told, f"{make_room}; or set ML_SERVICE_MAX_UPLOAD_BYTES lower")
    else:
        yield ok(SUBJECT, told)
    inodes = os.statvfs(place)
    if inodes.f_files > 0 and inodes.f_favail < _FEW_INODES:
        yield warn(
            SUBJECT, f"only {inodes.f_favail:,} more files can be made there", "remove files: it is out of inodes"
        )


def _data_bytes(patient: Patient) -> int:
    if not patient.ledger.exists:
        return 0
    database = patient.ledger.open()
    try:
        if current_revision(database) != HEAD:
            return 0
        datasets = Datasets(database, patient.settings.store)
        latest = datasets.latest()
        return datasets.size_bytes(latest) if latest is not None else 0
    except Exception:  # the database's own line says what is wrong with it
        return 0
    finally:
        database.close()


def _speed(place: Path) -> Iterator[Finding]:
    """With a file that has no name, and is gone when it is closed."""
    try:
        descriptor = os.open(place, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError:
        return  # a file system without such files: nothing is written there to find out
    try:
        times_ms = []
        for _ in range(_FSYNCS):
            os.write(descriptor, b"\0" * 4096)
            started = time.perf_counter()
            os.fsync(descriptor)
            times_ms.append((time.perf_counter() - started) * 1e3)
    finally:
        os.close(descriptor)
    median_ms = statistics.median(times_ms)
    if median_ms > _SLOW_FSYNC_MS:
        yield warn(SUBJECT, f"fsync takes {median_ms:.0f} ms", "every write waits for it: a faster disk, or PostgreSQL")
    else:
        yield ok(SUBJECT, f"fsync takes {median_ms:.1f} ms")


def _age_s(store: Path, token: str) -> float:
    return max(time.time() - staging.folder_of(store, token).stat().st_mtime, 0.0)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
