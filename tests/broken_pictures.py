"""What is sent as a picture and is none, or half of one, or far too large a one."""

from __future__ import annotations

import io
import random
import struct
import zlib

from tests.archives import archive_of
from tests.rendered_images import render


def packed(format: str) -> bytes:
    file = io.BytesIO()
    render("def value_total(count):", "DejaVuSansMono", 16).save(file, format)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


PNG, JPEG, GIF = (packed(name) for name in ("PNG", "JPEG", "GIF"))
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "an SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><text>x</text></svg>',
    "a page": b"<!doctype html><p>hello",
    "a text": b"def value_total(count):",
    "NUL bytes": bytes(5_000),
    "noise": random.Random(1).randbytes(5_000),
    "an archive": archive_of({"a.png": PNG}),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "the head of a PNG": PNG[:8],
    "the head of a JPEG": JPEG[:3],
    "the head of a GIF": GIF[:6],
    "a PNG with a wrong checksum": PNG[:20] + b"\xff" + PNG[21:],
    "40,000 x 40,000": png_of_size(40_000, 40_000),
    "2 x 2,000,000,000": png_of_size(2, 2_000_000_000),
    "0 x 0": png_of_size(0, 0),
    "too few rows": png_of_size(100, 1_000),
    **{f"a PNG cut at {n}": PNG[:n] for n in range(30, len(PNG) - 60, len(PNG) // 24)},
    **{f"a JPEG cut at {n}": JPEG[:n] for n in range(20, len(JPEG) // 3, len(JPEG) // 24)},
}
