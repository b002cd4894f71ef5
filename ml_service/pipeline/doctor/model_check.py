"""Does the model that is to answer prove itself, and does it fit into the memory that is free."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lib.memory import free_bytes
from ml_service.common.bundle import load_manifest
from ml_service.common.errors import BundleRefused, ServiceError
from ml_service.data.deployments import Deployments
from ml_service.data.experiments import Experiments
from ml_service.data.schema import HEAD, current_revision
from ml_service.inference.live import capacity_for, open_live_model
from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn
from ml_service.utils.telemetry import Telemetry

SUBJECT = "model"
_PROVED_HERE_BYTES = 1 << 30
_LITTLE_BYTES = 500 << 20


@dataclass(frozen=True)
class _Bundle:
    path: Path
    whose: str


def model_proves_itself(patient: Patient) -> Iterator[Finding]:
    """Files, graph, golden sample, as at every load; and that the clock is not before its making."""
    bundle = _to_answer(patient)
    size_bytes = sum(file.stat().st_size for file in bundle.path.glob("*"))
    if size_bytes > _PROVED_HERE_BYTES:
        yield ok(SUBJECT, f"{bundle.whose}: {size_bytes / 1e9:.1f} GB, too large to be proved in seconds; that is "
                          f"ml-service bundle verify {bundle.path}")  # fmt: skip
        return
    settings = patient.settings.model_copy(update={"slots": 1, "prefix_cache_mib": 0})
    started = time.perf_counter()
    try:
        model = open_live_model(bundle.path, settings, Telemetry())
    except (ServiceError, OSError) as error:
        yield fail(SUBJECT, f"{bundle.whose}: {error}",
                   "ml-service rollback; or deploy another: ml-service serve --bundle DIR")  # fmt: skip
        return
    model.engine.stop()
    seconds = time.perf_counter() - started
    manifest = model.manifest
    yield ok(
        SUBJECT, f"{bundle.whose}, {manifest.experiment} ({manifest.precision}), has proved itself in {seconds:.1f} s"
    )
    if datetime.fromtimestamp(model.created, UTC) > datetime.now(UTC):
        yield warn("clock", f"it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC here, before the model was made",
                   "set the clock: leases and keys go by it")  # fmt: skip


def memory_suffices(patient: Patient) -> Iterator[Finding]:
    """Weights, slots and prefix cache, against what is free."""
    try:
        bundle = _to_answer(patient)
        capacity = capacity_for(bundle.path, patient.settings)
        load_manifest(bundle.path)
    except BundleRefused as refused:
        yield fail("memory", str(refused), "or end what else takes memory")
        return
    free = free_bytes()
    slots = f"{capacity.slots} slots of {capacity.context:,} tokens, {capacity.max_waiting} may wait"
    told = f"{free / 2**30:,.1f} GiB free: {slots}"
    if free < _LITTLE_BYTES:
        yield warn("memory", told, "a training takes some 500 MiB more: train elsewhere, ML_SERVICE_WORKER=separate")
    else:
        yield ok("memory", told)


def _to_answer(patient: Patient) -> _Bundle:
    """What would answer if the service started now. Raises ServiceError where it cannot be known."""
    settings = patient.settings
    if settings.bundle is not None:
        return _Bundle(settings.bundle, "the bundle that is given")
    if patient.ledger.exists:
        database = patient.ledger.open()
        try:
            if current_revision(database) == HEAD and (active := Deployments(database).slot().active) is not None:
                stored = Experiments(database, settings.store).bundle_of(active.experiment_id)
                return _Bundle(stored.path, f"experiment {active.experiment_id}, the active one")
        finally:
            database.close()
    return _Bundle(settings.bundle_directory, "the shipped bundle")
