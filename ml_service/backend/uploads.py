"""What a client sends to be learned from: JSON texts or multipart files, brought into a staging folder as they come."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header

from lib.file_names import slug
from ml_service.backend.data_schemas import AddDataRequest, UploadDetails
from ml_service.backend.errors import bad_request_of
from ml_service.backend.multipart_files import MultipartFiles
from ml_service.common.errors import BadRequest, InsufficientStorage, UnsupportedMediaType
from ml_service.data import staging
from ml_service.data.batches import Upload
from ml_service.data.staging import ReceivedFile, Staging, upload_sha256, write_texts

Details = TypeVar("Details", bound=UploadDetails)
JSON, MULTIPART = "application/json", "multipart/form-data"
_FILE_FIELDS = frozenset({"files", "file"})
_TEXT_FIELDS = frozenset({"name", "licence", "tags"})
_PIECE_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20
_COPIES = 2
"""The upload itself and, for a while beside it, the shards that are made of it."""


@dataclass(frozen=True)
class ReceivedUpload:
    """All of an upload, in a folder that we hold."""

    folder: Staging
    files: list[ReceivedFile]
    details: UploadDetails

    def described(self, actor: str, key: str | None) -> Upload:
        """As it is remembered."""
        given = self.details
        name = given.name or slug(Path(self.files[0].name).stem, fallback="texts")
        return Upload(
            name, given.licence, given.tags, upload_sha256(self.files), sum(file.size_bytes for file in self.files),
            self.folder.token, actor, key,
        )  # fmt: skip


class IncomingUpload:
    """An upload whose whole body has come; what is left to do with it needs no client any more."""

    def __init__(self, folder: Staging) -> None:
        self.folder, self._rest = folder, bytearray()
        self._form: MultipartFiles | None = None

    async def take(self, request: Request, boundary: bytes | None) -> None:
        """Read the body to its end, a form piece by piece. Raises BadRequest where the client leaves before that."""
        if boundary is not None:
            self._form = MultipartFiles(boundary, self.folder.path, _FILE_FIELDS, _TEXT_FIELDS)
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the client left before the body was complete")
            self._rest += message.get("body", b"")
            if not message.get("more_body", False):
                return  # without a pause: who leaves from here on leaves a complete upload behind
            if self._form is not None and len(self._rest) >= _PIECE_BYTES:
                piece = bytes(self._rest)
                self._rest.clear()
                await asyncio.to_thread(self._form.write, piece)

    def finish(self) -> ReceivedUpload:
        """Write the rest and look at the fields; blocks. Raises BadRequest, InsufficientStorage, TooLarge."""
        if self._form is None:
            wish = _checked(AddDataRequest.model_validate_json, bytes(self._rest))
            upload = ReceivedUpload(self.folder, [write_texts(self.folder, wish.plain_texts())], wish)
        else:
            self._form.write(bytes(self._rest))
            self._form.finish()
            if not self._form.files:
                raise BadRequest("there is no file in it: send one or more as `files`", [("files", "none came")])
            upload = ReceivedUpload(self.folder, self._form.files, _details(self._form.texts))
        self.folder.remember(upload.files)
        return upload

    def remove(self) -> None:
        """Leave nothing of it; blocks."""
        if self._form is not None:
            self._form.close()
        self.folder.remove()


async def receive_upload(request: Request, store: Path) -> IncomingUpload:
    """Bring the body to disk as it comes; where that fails nothing is left. Whoever gets the upload removes it.

    Raises BadRequest, InsufficientStorage, TooLarge, UnsupportedMediaType.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    kind = media_type.decode("latin-1")
    if kind not in (JSON, MULTIPART):
        raise UnsupportedMediaType(
            f"this route takes {JSON} or {MULTIPART}, not {kind or 'a body without a content type'}"
        )
    declared = request.headers.get("content-length", "")
    check_room(store, int(declared) if declared.isdigit() else 0)
    folder = staging.create(store)  # a few microseconds: in a thread, a client who leaves would leave it behind
    incoming = IncomingUpload(folder)
    try:
        await incoming.take(request, options.get(b"boundary", b"") if kind == MULTIPART else None)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(incoming.remove))
        raise
    return incoming


def check_room(store: Path, declared_bytes: int) -> None:
    """Raises InsufficientStorage where the disk has no room for so much."""
    wanted, free = _COPIES * declared_bytes + _SPARE_BYTES, shutil.disk_usage(_existing(store)).free
    if free < wanted:
        raise InsufficientStorage(
            f"this upload takes about {wanted / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free"
        )


def _details(fields: dict[str, list[str]]) -> UploadDetails:
    """The fields of a form; tags are repeated, or one field with commas."""
    single = {name: values[-1] for name, values in fields.items() if name != "tags"}
    tags = [tag.strip() for value in fields.get("tags", []) for tag in value.split(",")]
    return _checked(UploadDetails.model_validate, single | {"tags": [tag for tag in tags if tag]})


def _checked(validate: Callable[[Any], Details], given: object) -> Details:
    try:
        return validate(given)
    except ValidationError as error:
        raise bad_request_of(error) from error


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
