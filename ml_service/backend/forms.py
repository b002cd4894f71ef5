"""A form or a JSON body from a client: files go to a staging folder piece by piece, text fields are kept."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from python_multipart.multipart import parse_options_header

from lib.aside import aside
from ml_service.backend.multipart_files import MAX_FIELD_BYTES, MultipartFiles
from ml_service.common.errors import BadRequest, InsufficientStorage, UnsupportedMediaType
from ml_service.data import staging
from ml_service.data.staging import ReceivedFile, Staging

JSON, MULTIPART = "application/json", "multipart/form-data"
_PIECE_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class ReceivedForm:
    """All of a body, its files in a folder that we hold."""

    folder: Staging
    files: list[ReceivedFile]
    texts: dict[str, list[str]]
    """Field → its values in the order in which they came."""
    json_body: bytes | None = None
    """All of it where JSON was sent: not looked at yet, and then there are neither files nor texts."""

    def one_file(self, field: str) -> ReceivedFile:
        """The file, where there should be one. Raises BadRequest."""
        if len(self.files) != 1:
            came = f"{len(self.files)} came" if self.files else "none came"
            raise BadRequest(f"send one file as `{field}`: {came}", [(field, came)])
        return self.files[0]


class IncomingForm:
    """A request whose whole body has come; what is left to do with it needs no client any more."""

    def __init__(self, folder: Staging) -> None:
        """Made by `receive_form`."""
        self.folder, self._rest = folder, bytearray()
        self._form: MultipartFiles | None = None

    async def take(self, request: Request, form: MultipartFiles | None) -> None:
        """Read the body to its end, a form piece by piece. Raises BadRequest where the client leaves before that."""
        self._form = form
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the client left before the body was complete")
            self._rest += message.get("body", b"")
            if not message.get("more_body", False):
                return  # without a pause: who leaves from here on leaves a complete upload behind
            if form is not None and len(self._rest) >= _PIECE_BYTES:
                piece = bytes(self._rest)
                self._rest.clear()
                await aside(form.write, piece)

    def finish(self) -> ReceivedForm:
        """Write the rest and close the files; blocks. Raises BadRequest, InsufficientStorage, TooLarge."""
        if self._form is None:
            return ReceivedForm(self.folder, [], {}, bytes(self._rest))
        self._form.write(bytes(self._rest))
        self._form.finish()
        return ReceivedForm(self.folder, self._form.files, self._form.texts)

    def remove(self) -> None:
        """Leave nothing of it; blocks."""
        if self._form is not None:
            self._form.close()
        self.folder.remove()


async def receive_form(
    request: Request,
    store: Path,
    file_fields: Collection[str],
    text_fields: Collection[str],
    *,
    copies: int = 1,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> IncomingForm:
    """Bring the body to disk as it comes; where that fails nothing is left. Whoever gets the form removes it.

    Parts named in `file_fields` need a file name, those in `text_fields` must have none and at most
    `max_field_bytes`; any other is refused. A JSON body is kept in memory: all routes' limit is its limit. `copies`
    says how often the disk has to hold a form's files. How large a form may be is said in `BodyLimit`, by its path.

    A server that is killed leaves its folder behind, which its next start sweeps (`data/leftovers.py`).
    Raises BadRequest, InsufficientStorage, TooLarge, UnsupportedMediaType.
    """
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    kind = media_type.decode("latin-1")
    if kind not in (JSON, MULTIPART):
        raise UnsupportedMediaType(
            f"this route takes {JSON} or {MULTIPART}, not {kind or 'a body without a content type'}"
        )
    declared = request.headers.get("content-length", "")
    check_room(store, copies * int(declared) if declared.isdigit() else 0)
    folder = staging.create(store)  # a few microseconds: in a thread, a client who leaves would leave it behind
    incoming = IncomingForm(folder)
    try:
        form = None
        if kind == MULTIPART:
            boundary, fields = options.get(b"boundary", b""), (frozenset(file_fields), frozenset(text_fields))
            form = MultipartFiles(boundary, folder.path, *fields, max_field_bytes)
        await incoming.take(request, form)
    except BaseException:
        await asyncio.shield(aside(incoming.remove))
        raise
    return incoming


@asynccontextmanager
async def received_form(
    request: Request,
    store: Path,
    file_fields: Collection[str],
    text_fields: Collection[str],
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> AsyncIterator[ReceivedForm]:
    """The same for a block that needs it to its end: removed then, whatever happens. Raises as `receive_form`."""
    incoming = await receive_form(request, store, file_fields, text_fields, max_field_bytes=max_field_bytes)
    try:
        yield await aside(incoming.finish)
    finally:
        await asyncio.shield(aside(incoming.remove))


def check_room(store: Path, wanted_bytes: int) -> None:
    """Raises InsufficientStorage where the disk has no room for so much."""
    wanted, free = wanted_bytes + _SPARE_BYTES, shutil.disk_usage(_existing(store)).free
    if free < wanted:
        raise InsufficientStorage(
            f"this upload takes about {wanted / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free"
        )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
