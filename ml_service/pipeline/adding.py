"""Data added by this very process: files of this machine, or texts that another part of the service made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_service.common.errors import BadRequest
from ml_service.data import staging
from ml_service.data.batches import Batches, Upload
from ml_service.data.database import Database
from ml_service.data.datasets import AddedBatch, Datasets
from ml_service.data.staging import ReceivedFile, Staging, received_file, upload_sha256, write_texts
from ml_service.pipeline.intake import Progress, take_in


@dataclass(frozen=True)
class Details:
    """What the sender says of an upload."""

    name: str
    licence: str = "unknown"
    tags: tuple[str, ...] = ()
    actor: str = "command line"


def add_files(
    database: Database, store: Path, paths: Sequence[Path], details: Details, progress: Progress = lambda done: None
) -> AddedBatch:
    """Add files; below a folder all that are not hidden. They are read where they lie.

    Raises BadRequest where there is none or nothing usable in them, TooLarge, InsufficientStorage, Unavailable.
    """
    files = [received_file(path, name) for path, name in _below(paths)]
    if not files:
        raise BadRequest(f"there is no file in {', '.join(map(str, paths))}")
    return _add(database, store, details, progress, lambda folder: files)


def add_texts(
    database: Database,
    store: Path,
    texts: Iterable[str],
    name: str,
    licence: str = "unknown",
    tags: Sequence[str] = (),
    actor: str = "service",
) -> AddedBatch:
    """Add texts, each a document. For a process that may load pyarrow: a worker or a command, never the server."""
    return _add(
        database, store, Details(name, licence, tuple(tags), actor), lambda done: None,
        lambda folder: [write_texts(folder, texts)],
    )  # fmt: skip


def _add(
    database: Database,
    store: Path,
    details: Details,
    progress: Progress,
    files_in: Callable[[Staging], list[ReceivedFile]],
) -> AddedBatch:
    batches, folder = Batches(database, store), staging.create(store)
    try:
        files = files_in(folder)
        folder.remember(files)
        upload = Upload(
            details.name, details.licence, list(details.tags), upload_sha256(files),
            sum(file.size_bytes for file in files), folder.token, details.actor,
        )  # fmt: skip
        received = batches.receive(upload)
        take_in(database, store, received.batch.id, progress)
        return Datasets(database, store).outcome_of(batches.get(received.batch.id), was_there=not received.is_new)
    finally:
        folder.remove()


def _below(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """(path, name) of each file."""
    found: list[tuple[Path, str]] = []
    for root in paths:
        if root.is_file():
            found.append((root, root.name))
            continue
        if not root.is_dir():
            raise BadRequest(f"{root} does not exist")
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            if path.is_file() and not any(part.startswith(".") for part in relative.parts):
                found.append((path, f"{root.name}/{relative.as_posix()}"))
    return found
