"""Is the database there, quick, of this version and writable; do the clocks agree; what waits and what was lost."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from ml_service.common.errors import Unavailable
from ml_service.data.database import Database, now
from ml_service.data.replicas import FRESH_S, Replicas
from ml_service.data.schema import HEAD, current_revision
from ml_service.data.tables import Job
from ml_service.pipeline.doctor.finding import Finding, Patient, fail, ok, warn
from ml_service.pipeline.doctor.mounts import file_system_of, is_on_network

SUBJECT = "database"
_SLOW_MS = 20.0
_LOST = timedelta(seconds=60)
_LATELY = timedelta(days=1)
_LONG_WAIT = timedelta(minutes=5)


def database_works(patient: Patient) -> Iterator[Finding]:
    """Reachable, quick, at the newest schema, writable, its clock ours."""
    ledger = patient.ledger
    file = ledger.sqlite_file
    if not ledger.exists:
        yield ok(SUBJECT, f"SQLite: {file} is made at the first start")
        return
    database = ledger.open()
    try:
        yield from _answers(database, file)
    except (Unavailable, DBAPIError) as away:
        where = "PostgreSQL of ML_SERVICE_DATABASE_URL" if file is None else str(file)
        yield fail(SUBJECT, f"{where}: {_reason(away)}", _way_back(file))
    finally:
        database.close()


def jobs_go_on(patient: Patient) -> Iterator[Finding]:
    """No job without a worker, none lost, none failed lately; no replica that is behind."""
    if not patient.ledger.exists:
        return
    database = patient.ledger.open()
    try:
        if current_revision(database) == HEAD:
            yield from _jobs(database, patient.settings.worker == "separate")
            yield from _replicas(database)
    except (Unavailable, DBAPIError):
        return  # the database's own line says it
    finally:
        database.close()


def _answers(database: Database, file: Path | None) -> Iterator[Finding]:
    times_ms = []
    with database.reading() as session:
        for _ in range(5):
            started = time.perf_counter()
            session.execute(text("SELECT 1"))
            times_ms.append((time.perf_counter() - started) * 1e3)
    median_ms = statistics.median(times_ms)
    name = "SQLite" if file is not None else "PostgreSQL"
    if median_ms > _SLOW_MS:
        yield warn(SUBJECT, f"{name} answers in {median_ms:.0f} ms", "it is far away or busy: move it nearer")
    else:
        yield ok(SUBJECT, f"{name} answers in {median_ms:.1f} ms")
    yield _schema(current_revision(database))
    if file is not None:
        yield from _sqlite_file(file)
    else:
        yield from _postgresql(database)


def _schema(revision: str | None) -> Finding:
    if revision == HEAD:
        return ok(SUBJECT, f"schema {HEAD}, the newest")
    if revision is None:
        return ok(SUBJECT, "it is empty: the schema is made at the first start")
    if revision < HEAD:
        return warn(SUBJECT, f"schema {revision}, and this version wants {HEAD}",
                    "back it up, then start the service, or: ml-service migrate")  # fmt: skip
    return fail(SUBJECT, f"schema {revision} is newer than this version knows ({HEAD})",
                "install the version that made it, or restore the backup from before")  # fmt: skip


def _sqlite_file(file: Path) -> Iterator[Finding]:
    beside = [each for each in file.parent.glob(f"{file.name}*") if not os.access(each, os.W_OK)]
    if beside or not os.access(file.parent, os.W_OK):
        yield fail(SUBJECT, f"{(beside or [file.parent])[0]} cannot be written by this user",
                   f"chown it to the user of the service (this is {_me()})")  # fmt: skip
    kind = file_system_of(file)
    if is_on_network(kind):
        yield warn(SUBJECT, f"SQLite on {kind}: locks may not hold there, and data may be lost",
                   "put the store on a local disk, or use PostgreSQL: ML_SERVICE_DATABASE_URL")  # fmt: skip


def _postgresql(database: Database) -> Iterator[Finding]:
    with database.reading() as session:
        is_standby = session.scalar(text("SELECT pg_is_in_recovery()"))
        may_write = session.scalar(text("SELECT has_schema_privilege(current_schema(), 'CREATE')"))
        theirs = session.scalar(select(func.clock_timestamp()))
    if is_standby:
        yield fail(SUBJECT, "it is a standby and takes no writes", "name the primary in ML_SERVICE_DATABASE_URL")
    elif not may_write:
        yield fail(SUBJECT, "the user may not create tables", "GRANT CREATE, USAGE ON SCHEMA public TO the user")
    if isinstance(theirs, datetime):
        apart_s = abs((theirs - datetime.now(UTC)).total_seconds())
        if apart_s > FRESH_S / 3:
            yield warn("clock", f"{apart_s:.0f} s from the database's; above {FRESH_S:.0f} s replicas look dead",
                       "let NTP set both")  # fmt: skip
        else:
            yield ok("clock", f"{apart_s * 1e3:.0f} ms from the database's")


def _jobs(database: Database, is_separate: bool) -> Iterator[Finding]:
    moment = now()
    with database.reading() as session:
        running = list(session.scalars(select(Job).where(Job.state == "running")))
        waiting = list(session.scalars(select(Job).where(Job.state == "queued", Job.not_before < moment)))
        failed = list(session.scalars(select(Job).where(Job.state == "failed", Job.finished > moment - _LATELY)))
    lost = [job for job in running if job.lease_end is not None and job.lease_end < moment - _LOST]
    if lost:
        yield warn("jobs", f"{_numbered(lost)}: no worker has told of it for {_age(moment, lost)}",
                   f"{_start(is_separate)}: it goes on from its last checkpoint")  # fmt: skip
    old = [job for job in waiting if job.not_before < moment - _LONG_WAIT]
    if old and len(running) == len(lost):
        yield warn("jobs", f"{_numbered(old)} waits, and nothing is being done", _start(is_separate))
    for job in failed[-3:]:
        about = f" of experiment {job.experiment_id}" if job.experiment_id else ""
        yield warn("jobs", f"{job.kind}{about} failed: {job.error}", "see its log: ml-service experiments show")
    if not (lost or old or failed):
        yield ok("jobs", f"{len(running)} running, {len(waiting)} waiting, none failed since yesterday")


def _replicas(database: Database) -> Iterator[Finding]:
    living = Replicas(database).living()
    behind = [replica for replica in living if replica.state != "ready"]
    for replica in behind:
        yield warn("replicas", f"{replica.host}:{replica.pid} is behind: {replica.detail}",
                   "it answers with the model before: mend what it says, or roll back")  # fmt: skip
    if living and not behind:
        told = ", ".join(f"{replica.host}:{replica.pid}" for replica in living[:4])
        yield ok("replicas", f"{len(living)} living, at one deployment: {told}")


def _numbered(jobs: list[Job]) -> str:
    names = [f"job {job.id} ({job.kind})" for job in jobs[:3]]
    return ", ".join(names) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")


def _age(moment: datetime, jobs: list[Job]) -> str:
    seconds = max((moment - job.lease_end).total_seconds() for job in jobs if job.lease_end is not None)
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _start(is_separate: bool) -> str:
    return "start a worker: ml-service worker" if is_separate else "start the service, or: ml-service worker"


def _reason(away: Exception) -> str:
    cause = away if isinstance(away, DBAPIError) else away.__cause__
    told = str(getattr(cause, "orig", None) or cause or away).strip().splitlines()
    return told[0] if told else str(away)


def _way_back(file: Path | None) -> str:
    if file is None:
        return 'is it running, and do host, port, user and password hold? try: psql "$ML_SERVICE_DATABASE_URL"'
    return "is it a database of this service, and may this user read it?"


def _me() -> str:
    return f"uid {os.getuid()}"
