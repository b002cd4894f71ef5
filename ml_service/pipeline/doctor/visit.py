"""A visit of the doctor: all checks, in the order in which one would ask."""

from __future__ import annotations

from collections.abc import Iterator

from ml_service.common.settings import Settings
from ml_service.pipeline.doctor.database_check import database_works, jobs_go_on
from ml_service.pipeline.doctor.finding import Check, Finding, Patient, examine
from ml_service.pipeline.doctor.ledger import Ledger
from ml_service.pipeline.doctor.machine_check import clock_is_set, limits_are_wide
from ml_service.pipeline.doctor.model_check import memory_suffices, model_proves_itself
from ml_service.pipeline.doctor.network_check import collector_is_there, port_is_ours_or_free
from ml_service.pipeline.doctor.settings_check import settings_are_safe
from ml_service.pipeline.doctor.store_check import disk_suffices, nothing_is_left_over
from ml_service.pipeline.doctor.versions_check import arithmetic_is_fast, gpu_is_used, versions_fit

PATIENCE_S = 9.0
CHECKS: dict[str, Check] = {
    "settings": settings_are_safe,
    "database": database_works,
    "jobs": jobs_go_on,
    "disk": disk_suffices,
    "leftovers": nothing_is_left_over,
    "model": model_proves_itself,
    "memory": memory_suffices,
    "libraries": versions_fit,
    "operators": arithmetic_is_fast,
    "gpu": gpu_is_used,
    "port": port_is_ours_or_free,
    "traces": collector_is_there,
    "limits": limits_are_wide,
    "clock": clock_is_set,
}


def visit(settings: Settings, patience_s: float = PATIENCE_S) -> Iterator[Finding]:
    """All findings; nothing is changed, and nothing is waited for longer than `patience_s`."""
    for findings in examine(Patient(settings, Ledger(settings)), CHECKS, patience_s):
        yield from findings
