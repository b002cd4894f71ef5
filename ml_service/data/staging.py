"""Staging folders: one for each upload, held by whoever works in it, swept when nobody does any more."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.file_names import plain_name
from lib.files import sha256_of_file, sha256_of_text, write_json

_LOCK = "lock"
_FILES = "files.json"


@dataclass(frozen=True)
class ReceivedFile:
    """A file that came: where it lies, what its sender called it, what is in it."""

    path: str
    name: str
    sha256: str
    size_bytes: int


class Staging:
    """A folder that is held: by a lock of the system, which ends with the processes that have it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Made by `create`, `join` and `seize`."""
        self.path, self._descriptor = path, descriptor

    @property
    def token(self) -> str:
        """Its name, unique in the store."""
        return self.path.name

    def remember(self, files: Sequence[ReceivedFile]) -> None:
        """Write down what came."""
        write_json(self.path / _FILES, [asdict(file) for file in files])

    def files(self) -> list[ReceivedFile]:
        """What came."""
        return [ReceivedFile(**file) for file in json.loads((self.path / _FILES).read_text(encoding="utf-8"))]

    def release(self) -> None:
        """Hold it no longer; what is in it stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove it with all that is in it, whoever else may hold it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()


def create(store: Path) -> Staging:
    """A new and empty folder, held."""
    while True:
        path = _root(store) / secrets.token_hex(8)
        path.mkdir(parents=True)
        staging = _lock(path, fcntl.LOCK_SH)
        if staging is not None:
            return staging


def join(store: Path, token: str) -> Staging | None:
    """Hold a folder beside those who hold it; None where it is gone."""
    return _lock(_root(store) / token, fcntl.LOCK_SH)


def seize(store: Path, token: str) -> Staging | None:
    """Hold a folder alone, one that is gone too; None where somebody works in it."""
    path = _root(store) / token
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # it was there, and was gone when Python looked whether it is a folder: others are at it
        return None
    return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def tokens(store: Path) -> Iterator[str]:
    """Of all folders that are there now."""
    with suppress(FileNotFoundError):
        yield from sorted(entry.name for entry in os.scandir(_root(store)) if entry.is_dir())


def folder_of(store: Path, token: str) -> Path:
    """Where it lies."""
    return _root(store) / token


def received_file(path: Path, name: str) -> ReceivedFile:
    """A file where it lies, under its sender's name."""
    return ReceivedFile(str(path.resolve()), plain_name(name), sha256_of_file(path), path.stat().st_size)


def write_texts(staging: Staging, texts: Iterable[str]) -> ReceivedFile:
    """Texts as a file of rows."""
    path = staging.path / "texts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(text)}\n" for text in texts)
    return received_file(path, "texts")


def upload_sha256(files: Sequence[ReceivedFile]) -> str:
    """The hash of an upload: of its files' contents in any order. A suffix counts: it says how a file is read."""
    return sha256_of_text("\n".join(sorted(f"{file.sha256} {Path(file.path).suffix.lower()}" for file in files)))


def _root(store: Path) -> Path:
    return store / "datasets" / "staging"


def _lock(path: Path, kind: int) -> Staging | None:
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind)
        # Whoever swept the folder while we waited held the file that we have open: there is none of that name now.
        if os.fstat(descriptor).st_ino == (path / _LOCK).stat().st_ino:
            return Staging(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
