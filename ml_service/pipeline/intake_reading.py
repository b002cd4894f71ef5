"""The documents of an upload: each file read by its kind, archives opened, what cannot be used named with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.file_names import plain_name
from lib.text_data import Document, Rejected, SourceFile, read_documents
from lib.zip_members import OverLimit, ZipLimits, ZipMembers
from ml_service.common.errors import TooLarge
from ml_service.data.batch_report import RejectedRow
from ml_service.data.staging import ReceivedFile

KINDS = (".txt", ".md", ".py", ".jsonl", ".csv", ".parquet", ".zip")
MAX_RECORD_BYTES = 16 << 10
"""A longer text becomes several records, so that of one large file some are held out too."""
ZIP_LIMITS = ZipLimits()
_ZIP = ".zip"


def documents_of(files: Iterable[ReceivedFile], folder: Path, source: str) -> Iterator[Document | Rejected]:
    """Every document of the files in order; `folder` holds one unpacked file at a time.

    Raises TooLarge where an archive is one that swells.
    """
    for file in files:
        path = Path(file.path)
        if path.suffix.lower() == _ZIP:
            yield from _documents_of_archive(path, file.name, folder, source)
        else:
            yield from _documents_of_file(path, file.name, source)


def rejected_row(rejected: Rejected) -> RejectedRow:
    """`notes.jsonl:7` as a file and a row."""
    name, piece = rejected.name, None
    head, separator, tail = name.rpartition(":")
    number = tail.split("#")[0]
    if separator and number.isdecimal():
        name, piece = head, int(number)
    # A library's message may quote the file, and PostgreSQL stores no NUL.
    reason = "".join(character if character.isprintable() else "?" for character in rejected.reason)
    return RejectedRow(file=name, row=piece, reason=reason)


def _documents_of_file(path: Path, name: str, source: str) -> Iterator[Document | Rejected]:
    if path.suffix.lower() not in KINDS:
        kinds = " ".join(KINDS)
        yield Rejected(source, name, f"unknown kind: this is none of {kinds}")
        return
    yield from read_documents([SourceFile(path, name, source)], MAX_RECORD_BYTES)


def _documents_of_archive(path: Path, name: str, folder: Path, source: str) -> Iterator[Document | Rejected]:
    try:
        archive = ZipMembers(path, ZIP_LIMITS)
    except OverLimit as error:
        raise TooLarge(f"{name}: {error}") from error
    except ValueError as error:
        yield Rejected(source, name, f"malformed: {error}")
        return
    try:
        for member in archive:
            own_name = plain_name(f"{name}/{member.name}")
            suffix = Path(member.name).suffix.lower()
            if refusal := member.refusal or _refusal_of(member.name, suffix):
                yield Rejected(source, own_name, refusal)
                continue
            unpacked = folder / f"unpacked{suffix}"
            try:
                archive.unpack(member, unpacked)
                yield from _documents_of_file(unpacked, own_name, source)
            except OverLimit as error:
                raise TooLarge(f"{name}: {error}") from error
            except ValueError as error:
                yield Rejected(source, own_name, f"malformed: {error}")
            finally:
                unpacked.unlink(missing_ok=True)
    finally:
        archive.close()


def _refusal_of(name: str, suffix: str) -> str | None:
    if any(part.startswith((".", "__MACOSX")) for part in name.split("/")):
        return "hidden: a system's own file"
    if suffix == _ZIP:
        return "an archive in an archive"
    return None if suffix in KINDS else f"unknown kind: {suffix or 'no suffix'}"
