"""The bundles of a store: `STORE/bundles/NAME`."""

from __future__ import annotations

from pathlib import Path

from ml_service.common.bundle import MANIFEST_FILE
from ml_service.common.errors import NotFound


class Bundles:
    """The bundle directories below a store."""

    def __init__(self, store: Path) -> None:
        self._root = store / "bundles"

    def names(self) -> list[str]:
        """Sorted names; a directory without a manifest is none."""
        return sorted(path.parent.name for path in self._root.glob(f"*/{MANIFEST_FILE}"))

    def find(self, wanted: Path) -> Path:
        """A directory as it is, or the bundle of that name in the store. Raises NotFound, naming those that exist."""
        if wanted.is_dir():
            return wanted
        if wanted.name == str(wanted) and wanted.name in self.names():
            return self._root / wanted.name
        known = f"; the store has {', '.join(self.names())}" if self.names() else ""
        raise NotFound(f"there is no bundle {wanted}{known}")
