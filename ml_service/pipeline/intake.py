"""The intake: from the files of an upload to an accepted version of the data set, one upload at a time."""

from __future__ import annotations

import errno
import heapq
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from lib.files import NO_ROOM, flush_to_disk, is_disk_error
from lib.merkle import merkle_root
from lib.text_data import Document, Rejected
from ml_service.common.errors import BadRequest, InsufficientStorage, ServiceError, TooLarge
from ml_service.data import staging
from ml_service.data.batch_report import BatchReport, RejectedRow, StoredError
from ml_service.data.batches import UNFINISHED, Batches, version_folder
from ml_service.data.database import Database, now
from ml_service.data.datasets import Datasets
from ml_service.data.leftovers import sweep
from ml_service.data.staging import Staging
from ml_service.data.tables import DataBatch
from ml_service.data.version_manifest import ShardEntry, VersionManifest, counts_of, total
from ml_service.pipeline.intake_reading import documents_of, rejected_row
from ml_service.pipeline.intake_records import IntakeRecords
from ml_service.pipeline.intake_writer import IntakeWriter

MAX_RECORDS = 1_000_000
"""All records of an upload come in one transaction: ten seconds for so many on SQLite, and nobody else writes then."""
MAX_ROWS = 20_000_000
MAX_TEXT_BYTES = 16 << 30
"""Rows and text that are looked at: a small Parquet file can say one long row a billion times."""
_RECORDS_FILE = "records.db"
_BLOCK_RECORDS = 2048
_BLOCK_BYTES = 4 << 20
_ROWS_NAMED = 100
_FIELDS_NAMED = 20
_FULL = NO_ROOM | {errno.EIO}

Progress = Callable[[int], None]
"""Told how many records were read by now."""
Work = Callable[[], tuple[BatchReport, VersionManifest | None]]
Apart = Callable[[Work], tuple[BatchReport, VersionManifest | None]]
"""Runs the long part somewhere else: in a thread that gives way to others. The transaction never waits there: it holds
the database's lock."""


def take_in(
    database: Database,
    store: Path,
    batch_id: int,
    progress: Progress = lambda done: None,
    apart: Apart = lambda work: work(),
) -> None:
    """Validate a batch and accept it, or reject it and raise why; one that is over stays as it is.

    Raises BadRequest where nothing can be used, TooLarge, InsufficientStorage, Conflict or Unavailable.
    """
    batches = Batches(database, store)
    held = staging.join(store, batches.get(batch_id).report.get("staging", "none"))
    try:
        with database.exclusive("intake"):
            sweep(database, store)
            batch = batches.get(batch_id)
            if held is not None and batch.state in UNFINISHED:
                batches.begin(batch_id)
                _take_in(database, store, batch, held, progress, apart)
    finally:
        if held is not None:
            held.release()


def _take_in(
    database: Database, store: Path, batch: DataBatch, held: Staging, progress: Progress, apart: Apart
) -> None:
    batches, datasets, report = Batches(database, store), Datasets(database, store), BatchReport()
    _clear(store, held)
    with ExitStack() as stack:
        try:
            records = stack.enter_context(closing(IntakeRecords(held.path / _RECORDS_FILE)))
            report, manifest = apart(lambda: _prepare(datasets, store, batch, held, records, progress))
            if manifest is None:
                _check_something_was_there(report)
            batches.accept(batch.id, report.model_dump(), manifest, records)
        except Exception as error:  # the border of a batch: what is no fault of ours is told, a bug goes on
            told = _in_our_words(error)
            is_content = isinstance(told, BadRequest | TooLarge)
            rejected = (report if is_content else BatchReport()).model_copy(update={"error": StoredError.of(told)})
            # What was wrong with the content will be wrong again; a full disk may have room the next time.
            batches.reject(batch.id, rejected.model_dump(), keeps_key=is_content)
            raise told from error


def _clear(store: Path, held: Staging) -> None:
    """Away with what was made of this batch before by a process that was killed, while others waited for it."""
    for pattern in (version_folder("*", held.token), f"datasets/staging/{held.token}/*-{held.token}"):
        for folder in store.glob(pattern):
            shutil.rmtree(folder)
    (held.path / _RECORDS_FILE).unlink(missing_ok=True)


def _prepare(
    datasets: Datasets, store: Path, batch: DataBatch, held: Staging, records: IntakeRecords, progress: Progress
) -> tuple[BatchReport, VersionManifest | None]:
    """Everything but the transaction: read, compare, write, move the version's folder to its place."""
    began = time.monotonic()
    parent = datasets.latest()
    number = parent.number + 1 if parent is not None else 1
    place = version_folder(number, held.token)
    writer = IntakeWriter(held.path / Path(place).name, batch.name, datasets, records)
    tally = _read_all(batch, held, writer, records, progress)
    shards = writer.close(place)
    added = counts_of(shards)
    report = BatchReport(
        accepted=records.count,
        duplicate=writer.left_out["duplicate"],
        near_duplicate=writer.left_out["near_duplicate"],
        rejected=tally.rejected.total(),
        rejected_by_reason=dict(tally.rejected.most_common()),
        rejected_rows=tally.rows,
        bytes=total(added).bytes,
        splits={split: total(added, split) for split in added},
        version=number if shards else (number - 1 or None),
        seconds=round(time.monotonic() - began, 3),
    )
    if not shards:
        return report, None
    manifest = _manifest(datasets, number, batch.id, shards, records)
    _move_to_its_place(manifest, held.path / Path(place).name, store / place)
    return report, manifest


class _Tally:
    """What could not be used: all counted, the first ones named."""

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.rows: list[RejectedRow] = []

    def reject(self, item: Rejected) -> None:
        self.rejected[item.reason.split(":")[0]] += 1
        if len(self.rows) < _ROWS_NAMED:
            self.rows.append(rejected_row(item))


def _read_all(
    batch: DataBatch, held: Staging, writer: IntakeWriter, records: IntakeRecords, progress: Progress
) -> _Tally:
    tally, block, block_bytes, text_bytes, done = _Tally(), list[Document](), 0, 0, 0
    for done, item in enumerate(documents_of(held.files(), held.path, batch.name), start=1):
        _check_amount(records.count, done, text_bytes)
        if isinstance(item, Rejected):
            tally.reject(item)
            continue
        size_bytes = item.size_bytes
        block.append(item)
        block_bytes += size_bytes
        text_bytes += size_bytes
        if len(block) == _BLOCK_RECORDS or block_bytes >= _BLOCK_BYTES:
            writer.write(block)
            block, block_bytes = [], 0
            progress(done)
    if block:
        writer.write(block)
    progress(done)
    return tally


def _check_amount(records: int, rows: int, text_bytes: int) -> None:
    if records > MAX_RECORDS:
        raise TooLarge(f"there are more than {MAX_RECORDS:,} records in it: send it in parts")
    if rows > MAX_ROWS:
        raise TooLarge(f"there are more than {MAX_ROWS:,} rows in it: send it in parts")
    if text_bytes > MAX_TEXT_BYTES:
        raise TooLarge(f"there are more than {MAX_TEXT_BYTES:,} bytes of text in it: send it in parts")


def _manifest(
    datasets: Datasets, number: int, batch_id: int, shards: list[ShardEntry], records: IntakeRecords
) -> VersionManifest:
    earlier = datasets.manifest(number - 1).shards if number > 1 else []
    return VersionManifest(
        number=number,
        parent=number - 1 or None,
        batch_id=batch_id,
        fingerprint=merkle_root(heapq.merge(datasets.hashes(), records.hashes())),
        created=now().isoformat(),
        counts=counts_of([*earlier, *shards]),
        shards=[*earlier, *shards],
    )


def _move_to_its_place(manifest: VersionManifest, made: Path, place: Path) -> None:
    manifest.write(made)
    flush_to_disk(made)
    place.parent.mkdir(parents=True, exist_ok=True)
    made.rename(place)
    flush_to_disk(place.parent)


def _check_something_was_there(report: BatchReport) -> None:
    """Raises BadRequest where there was no usable text, known or new."""
    if report.duplicate or report.near_duplicate:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected_by_reason.items())
    fields = [
        (row.file if row.row is None else f"{row.file}:{row.row}", row.reason)
        for row in report.rejected_rows[:_FIELDS_NAMED]
    ]
    raise BadRequest(f"there is no usable text in it: {reasons or 'nothing at all'}", fields)


def _in_our_words(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, MemoryError):
        return TooLarge("a row or file of it takes more memory than an intake may have")
    if (
        "disk is full" in str(error)
        or (getattr(error, "errno", None) in _FULL)
        or (not isinstance(error, OSError) and is_disk_error(error))
    ):
        return InsufficientStorage("the disk has too little room for this upload; nothing of it was kept")
    raise error
