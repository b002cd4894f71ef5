"""Messages between two processes: a JSON object and bytes, behind their lengths. Nothing in them is code."""

from __future__ import annotations

import json
import struct
from asyncio import StreamReader
from typing import Any, BinaryIO

_LENGTHS = struct.Struct("!II")
Header = dict[str, Any]


def pack(header: Header, body: bytes = b"") -> bytes:
    """A message as it is sent."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(body)) + text + body


async def receive(stream: StreamReader) -> tuple[Header, bytes]:
    """The next message. Raises asyncio.IncompleteReadError where the other side has gone."""
    header_bytes, body_bytes = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
    header: Header = json.loads(await stream.readexactly(header_bytes))
    return header, await stream.readexactly(body_bytes)


def read_message(file: BinaryIO) -> tuple[Header, bytes] | None:
    """The next message, waited for; None where the other side has gone."""
    lengths = file.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_bytes, body_bytes = _LENGTHS.unpack(lengths)
    header: Header = json.loads(file.read(header_bytes))
    return header, file.read(body_bytes)
