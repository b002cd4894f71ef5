"""Zip archives of strangers: members are unpacked one at a time, within limits, under names of our own."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.file_names import plain_name

_CHUNK_BYTES = 1 << 16
_MAX_DIRECTORY_BYTES = 4 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others take memory as the archive says (LZMA's dictionary: up to 4 GiB)."""
_ENCRYPTED = 1
_SMALL_BYTES = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)
"""All that zipfile raises at broken archives: OSError too, where an offset leads before the beginning."""


class OverLimit(ValueError):
    """The archive is larger than it may be, or unpacks to more than it may."""


@dataclass(frozen=True)
class ZipLimits:
    """What an archive may hold."""

    members: int = 10_000
    unpacked_bytes: int = 8 << 30
    ratio: int = 200
    """Unpacked to packed bytes of a member of 1 MiB and more; deflate reaches 1,032 on zeros, text seldom 20."""


@dataclass(frozen=True)
class Member:
    """A file in an archive, and why it cannot be had, if so."""

    name: str
    refusal: str | None
    info: zipfile.ZipInfo


class ZipMembers:
    """An open archive; what its directory says of sizes is not believed."""

    def __init__(self, path: Path, limits: ZipLimits) -> None:
        """Raises ValueError in words where it is no zip archive, OverLimit where its directory is too large."""
        self._limits, self._unpacked_bytes = limits, 0
        self._file = _ShortReads(path)
        try:
            self._archive = zipfile.ZipFile(self._file)
        except OverLimit:
            self._file.close()
            raise
        except _BROKEN as error:
            self._file.close()
            raise ValueError(f"no readable zip archive: {error}") from error
        if len(self._archive.filelist) > limits.members:
            self.close()
            raise OverLimit(f"the archive holds more than {limits.members:,} files")

    def __iter__(self) -> Iterator[Member]:
        """Its files in order; directories are left out."""
        for info in self._archive.filelist:
            if not info.filename.endswith("/"):  # its own `is_dir` stumbles over an empty name
                yield Member(plain_name(info.filename), _refusal(info), info)

    def unpack(self, member: Member, target: Path) -> None:
        """Write a member's content to `target`. Raises ValueError where it is broken, OverLimit at a bomb."""
        size = 0
        with target.open("wb") as file:
            for piece in self._pieces(member):
                size += len(piece)
                self._count(len(piece), size, member)
                file.write(piece)

    def close(self) -> None:
        """Let the file go."""
        self._archive.close()
        self._file.close()

    def _pieces(self, member: Member) -> Iterator[bytes]:
        try:
            with self._archive.open(member.info) as packed:
                while piece := packed.read(_CHUNK_BYTES):
                    yield piece
        except _BROKEN as error:
            raise ValueError(f"cannot be unpacked: {error}") from error

    def _count(self, piece_bytes: int, size: int, member: Member) -> None:
        self._unpacked_bytes += piece_bytes
        if self._unpacked_bytes > self._limits.unpacked_bytes:
            raise OverLimit(f"the archive unpacks to more than {self._limits.unpacked_bytes:,} bytes")
        if size > _SMALL_BYTES and size > self._limits.ratio * max(member.info.compress_size, 1):
            raise OverLimit(f"{member.name} unpacks to more than {self._limits.ratio} times its packed size")


class _ShortReads(io.FileIO):
    """A file of which nobody reads much at once: zipfile reads an archive's whole directory, however large."""

    def read(self, size: int | None = -1, /) -> bytes | None:  # type: ignore[override]
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise OverLimit("the archive's directory is too large")
        return super().read(-1 if size is None else size)


def _refusal(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a plain file"
    if info.compress_type not in _METHODS:
        return "packed in a way that is not taken: only stored and deflated are"
    return None
