"""Follows a run's progress log while it is written, through kills and new beginnings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class News:
    """What was written since the last look."""

    points: list[dict[str, Any]]
    begins_anew: bool
    """The log was cut: the points are all that it has now, and later steps are not true any more."""


class ProgressFollower:
    """Reads the new lines of a `progress.jsonl`; a line that is still being written waits for the next look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None
        self._offset = 0

    def look_again(self) -> None:
        """What the last look gave was lost: begin anew."""
        self._inode = None

    def look(self) -> News:
        """The points since the last look. A log that was replaced is read from its beginning."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return News([], begins_anew=False)
        begins_anew = found.st_ino != self._inode or found.st_size < self._offset
        if begins_anew:
            self._inode, self._offset = found.st_ino, 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        return News([point for line in whole.splitlines() if (point := _point(line))], begins_anew)


def _point(line: bytes) -> dict[str, Any] | None:
    try:
        point: dict[str, Any] = json.loads(line)
    except ValueError:  # a kill cut it short
        return None
    return point
