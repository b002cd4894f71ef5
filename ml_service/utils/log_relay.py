"""What a process of ours writes to its own log file, passed on to our standard error where lines are JSON objects."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ml_service.utils.logs import EventLogger, in_json

log = EventLogger("relay")
_LONGEST_CHARACTERS = 1_000
_LONGEST_LINE_BYTES = 1 << 20
"""One that never ends is passed on in pieces."""


class Relay:
    """Of one file, from a place in it on."""

    def __init__(self, file: Path, begin: int) -> None:
        self._file, self._at = file, begin

    def pass_on(self) -> None:
        """What has come since the last time, whole lines; its own objects as they are, anything else as an event."""
        if not in_json():
            return
        with self._file.open("rb") as file:
            file.seek(self._at)
            new = file.read(_LONGEST_LINE_BYTES)
        whole = new.rfind(b"\n") + 1 or (len(new) if len(new) == _LONGEST_LINE_BYTES else 0)
        self._at += whole
        for line in new[:whole].decode("utf-8", "replace").splitlines():
            if _is_ours(line):
                print(line, file=sys.stderr, flush=True)
            elif said := line.strip():
                log.info("process.said", line=said[-_LONGEST_CHARACTERS:])


def _is_ours(line: str) -> bool:
    try:
        return line.startswith("{") and "event" in json.loads(line)
    except ValueError:
        return False
