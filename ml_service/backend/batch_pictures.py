"""The pictures of an uploaded archive: each is unpacked and read when its turn comes, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock

from lib.aside import aside
from lib.text_data import ROW_SUFFIXES
from lib.zip_members import Member, OverLimit, ZipLimits, ZipMembers
from ml_service.common.errors import BadRequest, TooLarge
from ml_service.inference.image_reader import ImageReader
from ml_service.inference.reading import Reading

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_AT_A_TIME = 2
"""One is read while the next one is unpacked: more would only wait, with their bytes in memory."""
_LIMITS = ZipLimits(ratio=1_100)
"""Deflate reaches 1,032: a white bitmap may be packed as well as that. Each picture has its own limit instead."""
_BOMB_RATIO = 200


class Pictures:
    """An open archive of pictures."""

    def __init__(self, path: Path, reader: ImageReader, max_image_bytes: int) -> None:
        """Blocks; raises as `open_pictures`."""
        self._folder, self._reader, self._limit = path.parent, reader, max_image_bytes
        self._turn = asyncio.Semaphore(_AT_A_TIME)
        self._lock, self._is_closed = Lock(), False
        self._archive = ZipMembers(path, _LIMITS)
        try:
            self._members = [member for member in self._archive if not _is_beside(member.name)]
            _check(self._members, max_image_bytes)
        except BaseException:
            self._archive.close()
            raise

    def __iter__(self) -> Iterator[Picture]:
        """In the archive's order."""
        return (Picture(member, self) for member in self._members)

    async def read(self, member: Member) -> Reading:
        """Unpack and read one. Raises what the reader raises."""
        async with self._turn:
            return await self._reader.read(await aside(self._unpacked, member))

    def refusal_of(self, member: Member) -> str | None:
        """Why one cannot be read, as far as the archive's directory tells."""
        if member.info.file_size > self._limit:
            return f"the image is larger than {self._limit:,} bytes"
        if PurePosixPath(member.name).suffix.lower() not in IMAGE_SUFFIXES:
            return "no image, by its name"
        return member.refusal

    def close(self) -> None:
        """Let the file go and unpack nothing more; waits for what is being unpacked, and so blocks."""
        with self._lock:
            self._is_closed = True
            self._archive.close()

    def _unpacked(self, member: Member) -> bytes:
        target = self._folder / "picture"
        with self._lock:
            if self._is_closed:
                raise BadRequest("the request was given up")
            try:
                self._archive.unpack(member, target)
                return target.read_bytes()
            except ValueError as error:
                raise BadRequest(str(error)) from error
            finally:
                target.unlink(missing_ok=True)


@dataclass(frozen=True)
class Picture:
    """One of them."""

    member: Member
    pictures: Pictures

    @property
    def name(self) -> str:
        """Where it lies in the archive."""
        return self.member.name

    @property
    def refusal(self) -> str | None:
        """Why it cannot be read, as far as that is known before it is unpacked."""
        return self.pictures.refusal_of(self.member)

    async def read(self) -> Reading:
        """What is in it. Raises what the reader raises."""
        return await self.pictures.read(self.member)


def open_pictures(path: Path, reader: ImageReader, max_image_bytes: int) -> Pictures:
    """Blocks. Raises BadRequest where it is no archive of pictures, TooLarge where it is a bomb or over a limit."""
    try:
        return Pictures(path, reader, max_image_bytes)
    except OverLimit as error:
        raise TooLarge(str(error)) from error
    except ValueError as error:
        raise BadRequest(str(error), [("file", "no readable zip archive")]) from error


def _check(members: list[Member], max_image_bytes: int) -> None:
    if not any(PurePosixPath(member.name).suffix.lower() in IMAGE_SUFFIXES for member in members):
        raise BadRequest("the archive holds no images", [("file", "no images")])
    for member in members:
        info = member.info
        if ".." in PurePosixPath(info.filename.replace("\\", "/")).parts or info.filename.startswith("/"):
            raise BadRequest(f"{member.name}: its name leads out of the archive", [("file", "a name with ..")])
        if info.file_size > max(max_image_bytes, _BOMB_RATIO * info.compress_size):
            raise TooLarge(f"{member.name} unpacks to more than {_BOMB_RATIO} times its packed size")
    unpacked = sum(member.info.file_size for member in members)
    if unpacked > _LIMITS.unpacked_bytes:
        raise TooLarge(f"the archive unpacks to more than {_LIMITS.unpacked_bytes:,} bytes")


def _is_beside(name: str) -> bool:
    """Labels for an evaluation, and what systems put into archives unasked."""
    path = PurePosixPath(name)
    return path.suffix.lower() in ROW_SUFFIXES or path.parts[0] == "__MACOSX" or path.name.startswith(".")
