"""Corpora: the interpreter's standard library, the installed packages, any folder, a data set of the hub."""

from __future__ import annotations

import importlib.metadata
import re
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from lib.hub import fetch
from lib.text_data import PLAIN_SUFFIXES, ROW_SUFFIXES, SourceFile

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "testing", "site-packages", "dist-packages", "__pycache__"})
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;#\\]+)")


def standard_library() -> Iterator[SourceFile]:
    """The running interpreter's standard library, `.py` files only, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _TEST_FOLDERS.intersection(relative.parts[:-1]):
            yield SourceFile(path, relative.as_posix(), "stdlib")


def pinned_packages(lock_file: Path, share: float = 1.0) -> Iterator[SourceFile]:
    """The `.py` files of the packages that a lock file pins, as installed here, without their tests.

    Raises ValueError where a pinned package is installed in another version: the corpus would not be the same. A
    smaller `share` takes so many of the files, chosen by their names, in whatever version they are.
    """
    for name, version in sorted(read_pins(lock_file).items()):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a marker may exclude it on this platform
        if share == 1.0 and distribution.version.split("+")[0] != version.split("+")[0]:
            raise ValueError(f"{name} is installed as {distribution.version}, but the lock file pins {version}")
        for file in sorted(distribution.files or [], key=str):
            folders = set(file.parts[:-1])
            is_wanted = file.suffix == ".py" and not folders & _TEST_FOLDERS and ".." not in folders
            if is_wanted and zlib.crc32(str(file).encode()) < share * (1 << 32):
                yield SourceFile(Path(str(file.locate())), file.as_posix(), "packages")


def read_pins(lock_file: Path) -> dict[str, str]:
    """Package name → version of each `name==version` line."""
    matches = (_PIN.match(line) for line in lock_file.read_text(encoding="utf-8").splitlines())
    return {match["name"]: match["version"] for match in matches if match}


def hub_dataset(name: str, config: str | None = None) -> Iterator[SourceFile]:
    """The Parquet files of a data set on the Hugging Face hub, fetched into its cache once.

    `config` is the folder in it, such as `20231101.ru` of `wikimedia/wikipedia`. Raises ConnectionError in words
    where the hub cannot be reached or has no such data set.
    """
    root = fetch(name, "dataset", [f"{config}/*.parquet" if config else "*.parquet"])
    source = "--".join(["hub", *name.split("/"), *([config] if config else [])])
    for file in sorted((root / (config or "")).glob("*.parquet")):
        yield SourceFile(file, file.name, source)


def folder(root: Path, source: str | None = None) -> Iterator[SourceFile]:
    """Every readable text or row file below a folder (or the one file that `root` is), sorted by name."""
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    name = source or root.stem
    if root.is_file():
        yield SourceFile(root, root.name, name)
        return
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and path.suffix.lower() in PLAIN_SUFFIXES | ROW_SUFFIXES:
            yield SourceFile(path, path.relative_to(root).as_posix(), name)
