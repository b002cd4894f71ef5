"""A multipart body taken piece by piece: parts with a file name go to files, the others are kept as text."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lib.file_names import plain_name
from lib.files import NO_ROOM
from ml_service.common.errors import BadRequest, InsufficientStorage, TooLarge
from ml_service.data.staging import ReceivedFile

MAX_FIELD_BYTES = 16 << 10
_MAX_FILES = 10_000
_MAX_FIELDS = 1_000
_MAX_FIELDS_BYTES = 1 << 20
"""Of all text fields together, or of one where that may be longer: they stay in memory."""
_SUFFIX = re.compile(r"\.[a-z0-9]{1,15}")
_EXTENDED_NAME = re.compile(r"filename\*=utf-8''([^;]+)", re.IGNORECASE)


class MultipartFiles:
    """Writes what comes into a folder, under names of our own. Its methods block: call them in a thread."""

    def __init__(
        self,
        boundary: bytes,
        folder: Path,
        file_fields: frozenset[str],
        text_fields: frozenset[str],
        max_field_bytes: int = MAX_FIELD_BYTES,
    ) -> None:
        """Raises BadRequest where the boundary is none."""
        if not boundary:
            raise BadRequest("the content type names no boundary")
        self.files: list[ReceivedFile] = []
        self.texts: dict[str, list[str]] = {}
        self._folder, self._file_fields, self._text_fields = folder, file_fields, text_fields
        self._max_field_bytes, self._fields, self._fields_bytes = max_field_bytes, 0, 0
        self._lock, self._is_closed, self._is_complete = Lock(), False, False
        self._header = self._value = b""
        self._headers: dict[str, bytes] = {}
        self._part: _FilePart | _TextPart | None = None
        self._parser = _parser(self, boundary)

    def write(self, piece: bytes) -> None:
        """Take the next piece. Raises BadRequest, TooLarge, InsufficientStorage."""
        with self._lock:
            if self._is_closed:  # the request was given up while this piece waited for its thread
                return
            try:
                self._parser.write(piece)
            except FormParserError as error:
                raise BadRequest(f"the multipart body cannot be read: {error}") from error
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise InsufficientStorage("the disk has too little room for this upload") from error
                raise

    def finish(self) -> None:
        """The body is over. Raises BadRequest where it was cut off."""
        with self._lock:
            if not self._is_complete:
                raise BadRequest("the multipart body ends before its last boundary")

    def close(self) -> None:
        """Write nothing more; wait for the piece that is being written."""
        with self._lock:
            self._is_closed = True
            if isinstance(self._part, _FilePart):
                self._part.file.close()

    def begin_part(self) -> None:
        """A part's headers follow."""
        self._headers = {}

    def end_header(self) -> None:
        """A header is complete."""
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = self._value = b""

    def begin_content(self) -> None:
        """All headers are there: now it is known what the part is. Raises BadRequest, TooLarge."""
        disposition = self._headers.get("content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        given = _file_name(disposition, options)
        if name in self._file_fields:
            if given is None:
                raise BadRequest(f"{name}: a file with a name is wanted", [(name, "it has no file name")])
            if len(self.files) == _MAX_FILES:
                raise TooLarge(f"an upload has at most {_MAX_FILES:,} files: send a zip archive")
            self._part = _FilePart(self._folder / f"{len(self.files):06d}{_suffix(given)}", plain_name(given))
        elif name in self._text_fields and given is None:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise TooLarge(f"a form has at most {_MAX_FIELDS:,} text fields")
            self._part = _TextPart(name, self._max_field_bytes)
        else:
            raise BadRequest(f"{name or 'a part'}: unknown field", [(name or "body", "unknown field")])

    def content(self, data: bytes) -> None:
        """Some of the part's content. Raises BadRequest where a field is too long, TooLarge where all of them are."""
        assert self._part is not None, "the parser gave content before headers: this is a bug"
        self._part.add(data)
        if isinstance(self._part, _TextPart):
            self._fields_bytes += len(data)
            if self._fields_bytes > (most := max(_MAX_FIELDS_BYTES, self._max_field_bytes)):
                raise TooLarge(f"the text fields together are longer than {most:,} bytes")

    def end_part(self) -> None:
        """The part is complete. Raises BadRequest where it is no text."""
        match self._part:
            case _FilePart() as part:
                part.file.close()
                self.files.append(ReceivedFile(str(part.path), part.name, part.digest.hexdigest(), part.size_bytes))
            case _TextPart() as part:
                self.texts.setdefault(part.name, []).append(part.text())
        self._part = None

    def end(self) -> None:
        """The last boundary has come."""
        self._is_complete = True

    def header_name(self, data: bytes) -> None:
        """Some of a header's name."""
        self._header += data

    def header_value(self, data: bytes) -> None:
        """Some of a header's value."""
        self._value += data


class _FilePart:
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.size_bytes = path, name, 0
        self.digest = hashlib.sha256()
        self.file: BinaryIO = path.open("xb")

    def add(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size_bytes += len(data)


class _TextPart:
    def __init__(self, name: str, max_bytes: int) -> None:
        self.name, self._max_bytes, self._content = name, max_bytes, bytearray()

    def add(self, data: bytes) -> None:
        self._content += data
        if len(self._content) > self._max_bytes:
            raise BadRequest(f"{self.name}: longer than {self._max_bytes:,} bytes", [(self.name, "too long")])

    def text(self) -> str:
        try:
            return self._content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"{self.name}: not UTF-8", [(self.name, "not UTF-8")]) from error


def _parser(taker: MultipartFiles, boundary: bytes) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": taker.begin_part,
                "on_header_field": lambda data, start, end: taker.header_name(data[start:end]),
                "on_header_value": lambda data, start, end: taker.header_value(data[start:end]),
                "on_header_end": taker.end_header,
                "on_headers_finished": taker.begin_content,
                "on_part_data": lambda data, start, end: taker.content(data[start:end]),
                "on_part_end": taker.end_part,
                "on_end": taker.end,
            },
        )
    except FormParserError as error:
        raise BadRequest(f"the multipart body cannot be read: {error}") from error


def _file_name(disposition: bytes, options: dict[bytes, bytes]) -> str | None:
    """The name of the file; where it is not ASCII some clients send it as RFC 5987 says."""
    if (extended := _EXTENDED_NAME.search(disposition.decode("latin-1"))) is not None:
        return unquote(extended[1].strip())
    name = options.get(b"filename")
    return name.decode("utf-8", "replace") if name is not None else None


def _suffix(name: str) -> str:
    suffix = Path(plain_name(name)).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""
