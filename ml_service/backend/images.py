"""Pictures in requests: taken from base64 or a form, read, put behind the text, given back with the continuation."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import Request

from lib.aside import aside
from ml_service.backend.deadlines import Deadline
from ml_service.backend.dependencies import image_reader_of, settings_of
from ml_service.backend.forms import ReceivedForm
from ml_service.common.errors import BadRequest, Overloaded, TooLarge, Unavailable
from ml_service.inference.image_reader import ImageReader
from ml_service.inference.reading import Reading

Load = Callable[[], bytes]
"""Gets a picture's bytes; blocks, and raises BadRequest where there are none."""
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_HEAD_CHARACTERS = 256
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Seen:
    """A picture and what was read in it."""

    reader: ImageReader
    image: bytes
    reading: Reading
    deadline: Deadline

    def behind(self, text: str) -> str:
        """The prompt."""
        return put_behind(text, self.reading.text)

    async def drawn(self, continuation: str) -> str | None:
        """The picture with what was read and what comes after it: a PNG in base64; None where the time is over."""
        try:
            drawing = self.reader.draw(self.image, self.reading, continuation)
            drawn = await self.deadline.met_by(drawing, "the image was drawn")
        except (Overloaded, Unavailable):
            return None
        return (await aside(base64.b64encode, drawn)).decode("ascii")


async def look(request: Request, load: Load, deadline: Deadline) -> Seen:
    """Get a picture and read it in time. Raises BadRequest, TooLarge, ModelFailure, Overloaded, Unavailable."""
    settings, reader = await settings_of(request), await image_reader_of(request)
    image = await aside(load)
    check_size(len(image), settings.max_image_bytes)
    reading = await deadline.met_by(reader.read(image), "the image was read")
    return Seen(reader, image, reading, deadline)


async def read_among(request: Request, parts: Sequence[str | Load], deadline: Deadline) -> str:
    """Texts and pictures as one text: what was read stands in each picture's place. Raises as `look` does."""
    whole, borders_on_picture = "", False
    for part in parts:
        is_text = isinstance(part, str)
        text = part if isinstance(part, str) else (await look(request, part, deadline)).reading.text
        whole = whole + text if is_text and not borders_on_picture else put_behind(whole, text)
        borders_on_picture = not is_text
    return whole


def put_behind(text: str, read: str) -> str:
    """With a new line in between where the text does not end in white space."""
    return text + read if not text or text[-1].isspace() else f"{text}\n{read}"


async def check_rest(request: Request, *pictures: str) -> None:
    """Raises TooLarge where a JSON body without its pictures is over the limit of all routes."""
    limit = (await settings_of(request)).max_body_bytes
    if len(await request.body()) - sum(len(picture) for picture in pictures) > limit:
        raise TooLarge(f"the request body is larger than {limit:,} bytes, its images aside")


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Raises TooLarge."""
    if size_bytes > limit_bytes:
        raise TooLarge(f"the image is larger than {limit_bytes:,} bytes")


def picture_of_json(text: str | None) -> Load | None:
    """A picture in base64, as a data URL or without its head."""
    return None if text is None else partial(_decoded, text, "image")


def picture_of_url(url: str) -> Load:
    """A picture as a data URL."""
    return partial(_decoded, url, "image_url")


async def picture_of_form(request: Request, form: ReceivedForm) -> tuple[str, Load | None]:
    """The text of a form, and its picture. Raises BadRequest where there is neither, TooLarge."""
    text = form.texts.get("text", [])
    if len(text) > 1:
        raise BadRequest(f"text: it came {len(text)} times", [("text", "more than one value")])
    if not form.files:
        if not text:
            raise BadRequest("text: Field required, or an image", [("text", "Field required")])
        return text[0], None
    file = form.one_file("image")
    check_size(file.size_bytes, (await settings_of(request)).max_image_bytes)
    return "".join(text), Path(file.path).read_bytes


def _decoded(text: str, field: str) -> bytes:
    if _ADDRESS.match(text):
        raise BadRequest(
            f"{field}: this service fetches nothing: send the picture itself, as data:image/png;base64,…",
            [(field, "an address")],
        )
    head = _DATA_URL.match(text[:_HEAD_CHARACTERS])
    if head is None and text[:5].lower() == "data:":
        raise BadRequest(f"{field}: a data URL has to be in base64", [(field, "not base64")])
    encoded = text[head.end() :] if head else text
    if "\n" in encoded:  # encoders wrap their lines, as MIME has it
        encoded = "".join(encoded.split())
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"{field}: not base64", [(field, "not base64")]) from error
