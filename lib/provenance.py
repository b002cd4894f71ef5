"""Where an artifact comes from: the commit, the state of the tree, the versions, the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

UNKNOWN_COMMIT = "unknown"
BUILT_FROM = "COMMIT"
"""A file beside code that was taken out of its repository, as into an image: `str` of the commit that it was."""
_DIRTY = "-dirty"


@dataclass(frozen=True)
class Commit:
    """A git commit and whether the tree differed from it."""

    sha: str
    is_dirty: bool

    def __str__(self) -> str:
        return f"{self.sha}{_DIRTY}" if self.is_dirty else self.sha


def current_commit(repository: Path) -> Commit:
    """The commit of the tree at `repository`, else what its file `COMMIT` says; `unknown` where there is neither.

    What is not covered: files that git ignores.
    """
    sha = _git(repository, "rev-parse", "HEAD")
    if not sha:
        return _built_from(repository / BUILT_FROM)
    changes = _git(repository, "status", "--porcelain")
    return Commit(sha, is_dirty=changes != "")  # what could not be asked may have changed


def now_utc() -> str:
    """The time now in ISO 8601, UTC, whole seconds: `2026-01-31T12:00:00Z`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions(*packages: str) -> dict[str, str]:
    """The interpreter's version and those of the named packages."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def machine() -> dict[str, str | int]:
    """The processor and how many of its cores this process may use."""
    return {"system": platform.system(), "machine": platform.machine(), "cores": usable_cores()}


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _built_from(file: Path) -> Commit:
    try:
        told = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        told = ""
    return Commit(told.removesuffix(_DIRTY) or UNKNOWN_COMMIT, is_dirty=told.endswith(_DIRTY))


def _git(repository: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
