"""Batches of data: received, accepted with their records and a new version in one transaction, or rejected."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from ml_service.common.errors import Conflict, NotFound
from ml_service.data import audit
from ml_service.data.batch_report import BatchReport
from ml_service.data.database import Database, now
from ml_service.data.states import change_state
from ml_service.data.tables import DataBatch, DatasetVersion, Record
from ml_service.data.version_manifest import MANIFEST_FILE, VersionManifest

UNFINISHED = ("received", "validating")
_ROWS_AT_ONCE = 5000


@dataclass(frozen=True)
class Upload:
    """What somebody wants to add."""

    name: str
    licence: str
    tags: list[str]
    sha256: str
    size_bytes: int
    staging: str
    """The token of the folder that holds it."""
    actor: str
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Received:
    """The batch of an upload; one that was there before, where the same had come already."""

    batch: DataBatch
    is_new: bool


class NewRecord(NamedTuple):
    """A document that is to be kept, and where it lies."""

    content_hash: str
    size_bytes: int
    split: str
    shard: str
    row: int


class Batches:
    """The batches of a store; `pipeline.intake` says what happens to one."""

    def __init__(self, database: Database, store: Path) -> None:
        self._database, self._store = database, store

    def receive(self, upload: Upload) -> Received:
        """Remember an upload; the same content or the same key again is the batch that was there.

        Raises Conflict where the key came with another upload before.
        """
        with self._database.writing() as session:
            self._database.lock_for_this_transaction(session, "receive")
            if (batch := _with_key(session, upload)) is not None:
                return Received(batch, is_new=False)
            same = select(DataBatch).where(DataBatch.sha256 == upload.sha256, DataBatch.state != "rejected")
            if (batch := session.scalar(same)) is not None:
                return Received(batch, is_new=False)
            batch = DataBatch(
                name=upload.name, licence=upload.licence, tags=upload.tags, sha256=upload.sha256,
                size_bytes=upload.size_bytes, state="received", report={"staging": upload.staging},
                actor=upload.actor, idempotency_key=upload.idempotency_key, created=now(),
            )  # fmt: skip
            session.add(batch)
        return Received(batch, is_new=True)

    def begin(self, batch_id: int) -> None:
        """Its validation begins. Raises Conflict where it is over."""
        with self._database.writing() as session:
            change_state(session, DataBatch, batch_id, UNFINISHED, "validating")

    def accept(
        self, batch_id: int, report: dict[str, Any], manifest: VersionManifest | None, records: Iterable[NewRecord]
    ) -> None:
        """Keep a batch: its records, the new version and the audit event, in one transaction or not at all.

        The version's folder is in its place by now. Without a manifest nothing in the batch was new.
        Raises Conflict where the batch is over, or where another version came in between.
        """
        with self._database.writing() as session:
            batch = session.get_one(DataBatch, batch_id)
            folder = version_folder(manifest.number, batch.report["staging"]) if manifest is not None else ""
            change_state(session, DataBatch, batch_id, UNFINISHED, "accepted", report=report, finished=now())
            if manifest is not None:
                _add_version(session, manifest, f"{folder}/{MANIFEST_FILE}")
                _add_records(session, batch_id, records)
            told = {"name": batch.name, "sha256": batch.sha256, "version": report["version"]}
            audit.record(self._database, session, batch.actor, "data.add", f"batch {batch_id}", after=told)

    def reject(self, batch_id: int, report: dict[str, Any], keeps_key: bool) -> None:
        """Give a batch up, with its reason in `report`; nothing where it is over. Its files are removed first.

        Only for who is alone with it: inside of the one intake, or with its staging folder seized.
        Where its key is not kept, the same wish may be uttered again.
        """
        batch = self.get(batch_id)
        if batch.state not in UNFINISHED:
            return
        for folder in self._store.glob(version_folder("*", batch.report["staging"])):
            shutil.rmtree(folder, ignore_errors=True)
        with self._database.writing() as session:
            batch = session.get_one(DataBatch, batch_id)
            if batch.state not in UNFINISHED:
                return
            batch.state, batch.report, batch.finished = "rejected", report, now()
            if not keeps_key:
                batch.idempotency_key = None

    def get(self, batch_id: int) -> DataBatch:
        """Raises NotFound."""
        with self._database.reading() as session:
            if (batch := session.get(DataBatch, batch_id)) is None:
                raise NotFound(f"there is no batch {batch_id}")
            return batch

    def unfinished(self) -> list[DataBatch]:
        """Batches that somebody works on, or worked on when they died."""
        with self._database.reading() as session:
            found = select(DataBatch).where(DataBatch.state.in_(UNFINISHED)).order_by(DataBatch.id)
            return list(session.scalars(found))


def report_of(batch: DataBatch) -> BatchReport:
    """What became of it. Raises what it was rejected for, in the words of then."""
    report = BatchReport.model_validate(batch.report)
    if report.error is not None:
        raise report.error.as_error()
    return report


def version_folder(number: int | str, staging: str) -> str:
    """Where a version's own files lie, relative to the store; `*` finds what a batch left under any number."""
    return f"datasets/versions/{number if isinstance(number, str) else f'{number:04d}'}-{staging}"


def _with_key(session: Session, upload: Upload) -> DataBatch | None:
    if upload.idempotency_key is None:
        return None
    same_key = select(DataBatch).where(DataBatch.idempotency_key == upload.idempotency_key)
    batch = session.scalar(same_key)
    if batch is not None and (batch.sha256, batch.name, batch.licence, batch.tags) != (
        upload.sha256, upload.name, upload.licence, upload.tags,
    ):  # fmt: skip
        raise Conflict(f"this Idempotency-Key came with another upload before: batch {batch.id}")
    return batch


def _add_version(session: Session, manifest: VersionManifest, path: str) -> None:
    parent = session.scalar(select(DatasetVersion).order_by(DatasetVersion.number.desc()).limit(1))
    if (parent.number if parent is not None else None) != manifest.parent:
        raise Conflict("another version was added in between: send it again")
    version = DatasetVersion(
        number=manifest.number, parent_id=parent.id if parent is not None else None, batch_id=manifest.batch_id,
        fingerprint=manifest.fingerprint, manifest_path=path, counts=manifest.model_dump()["counts"], created=now(),
    )  # fmt: skip
    session.add(version)
    session.flush()


def _add_records(session: Session, batch_id: int, records: Iterable[NewRecord]) -> None:
    connection, rest = session.connection(), iter(records)
    while some := list(islice(rest, _ROWS_AT_ONCE)):
        connection.execute(insert(Record), [{"batch_id": batch_id, **record._asdict()} for record in some])
