"""The messages of a chat as the model is told them: what was read in a picture stands in its place."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

from ml_service.backend.deadlines import Deadline
from ml_service.backend.images import check_rest, picture_of_url, read_among
from ml_service.backend.openai_schemas import ChatMessage, ImagePart, TextPart
from ml_service.common.errors import TooLarge
from ml_service.inference.chat import Message

MAX_PICTURES = 16
"""In a request: each is read for itself, and the pictures of others wait."""


async def told(request: Request, messages: Sequence[ChatMessage], deadline: Deadline) -> list[Message]:
    """Every message as a text. Raises BadRequest, TooLarge, and what the reader of pictures raises."""
    parts = [part for message in messages for part in message.parts]
    pictures = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    await check_rest(request, *pictures)
    if len(pictures) > MAX_PICTURES:
        raise TooLarge(f"a request has at most {MAX_PICTURES} images")
    return [Message(message.role, await _text(request, message.parts, deadline)) for message in messages]


async def _text(request: Request, parts: Sequence[TextPart | ImagePart], deadline: Deadline) -> str:
    contents = [part.text if isinstance(part, TextPart) else picture_of_url(part.image_url.url) for part in parts]
    return await read_among(request, contents, deadline)
