"""Does the system let the service have what it needs: open files, cores, time."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from datetime import UTC, datetime

from lib.provenance import usable_cores
from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn

_FILES_WANTED = 4096
_FILES_NEEDED = 512
_NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)


def limits_are_wide(patient: Patient) -> Iterator[Finding]:
    """Open files, and threads against cores."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{'unlimited' if soft == resource.RLIM_INFINITY else format(soft, ',')} open files"
    raise_it = f"raise it: ulimit -n {_FILES_WANTED} (at most {hard:,}), systemd's LimitNOFILE=, compose's ulimits:"
    if soft != resource.RLIM_INFINITY and soft < _FILES_NEEDED:
        yield fail("limits", told, raise_it)
    elif soft != resource.RLIM_INFINITY and soft < _FILES_WANTED:
        yield warn("limits", f"{told}: each client takes one", raise_it)
    else:
        yield ok("limits", told)
    cores, threads = usable_cores(), patient.settings.threads
    if threads > cores:
        yield warn("cores", f"{threads} threads on {cores} cores", f"set ML_SERVICE_THREADS to {cores} or not at all")
    else:
        yield ok("cores", f"{cores}, of which a step takes {threads}; load {os.getloadavg()[0]:.1f}")


def clock_is_set(_: Patient) -> Iterator[Finding]:
    """Not before this was written."""
    moment = datetime.now(UTC)
    if moment < _NOT_BEFORE:
        yield fail("clock", f"it is {moment:%Y-%m-%d} here", "set it: leases, keys and certificates go by it")
    else:
        yield ok("clock", f"{moment:%Y-%m-%d %H:%M} UTC")
