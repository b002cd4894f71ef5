"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where a disk, a quota or a file is full."""
NO_ROOM_CODE = os.EX_IOERR
"""A process that found no room ends with this: what it has to say may find no room in its log either."""
NO_ROOM_SAID = "the disk is full: make room and try again"


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path`, which takes its place when the block ends well.

    A reader sees the old file, then the new one, and never half of it; an error leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        flush_to_disk(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """The same for a directory. Raises FileExistsError where `path` is there already and not empty."""
    if path.exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} exists and is not empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                flush_to_disk(file)
        temporary.chmod(0o755)
        if path.exists():
            path.rmdir()
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all."""
    with staged(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def remove_tree(path: Path) -> int:
    """Remove a directory with all that is in it, one that is gone too; how many bytes that frees."""
    size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    shutil.rmtree(path, ignore_errors=True)
    return size_bytes


def is_disk_error(error: BaseException | None) -> bool:
    """Whether something could not be written: the libraries hide the system's error behind their own."""
    words = ("No space left", "File too large", "failed writing file", "unexpected pos", "I/O error")
    return error is not None and (
        isinstance(error, OSError) or any(word in str(error) for word in words) or is_disk_error(error.__cause__)
    )


def is_full_disk(error: BaseException | None) -> bool:
    """Whether there was no room for something, also where a library hides the system's error behind its own."""
    if error is None:
        return False
    is_full = (isinstance(error, OSError) and error.errno in NO_ROOM) or "No space left" in str(error)
    return is_full or is_full_disk(error.__cause__ or error.__context__)


def sha256_of_file(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_text(text: str) -> str:
    """The SHA-256 of the text's UTF-8 bytes in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def flush_to_disk(path: Path) -> None:
    """A file's content, or which names a directory has, survives a loss of power when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
