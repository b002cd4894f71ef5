"""A disk to fill: a file system of its own in memory, and a file that takes what is left of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

DISK_MIB = 1000


class Disk:
    """A file system of its own in memory, and a file that takes what is left of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """In the block it is there."""
        self.folder.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(self.folder)], check=True, timeout=30
        )
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(self.folder)], check=True, timeout=30)

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all but so much; what others free meanwhile is taken, too."""
        with self._ballast.open("ab") as file:
            while True:
                usage = os.statvfs(self.folder)
                free = usage.f_bavail * usage.f_frsize - leave_bytes
                if free < usage.f_frsize:
                    return
                with contextlib.suppress(OSError):  # somebody was faster
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)

    def make_room(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)
