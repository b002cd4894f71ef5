"""Pictures that are none, broken or bombs, by the hundred; the same every time."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

from PIL import Image

from tests.rendered_images import render

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def small_picture(format: str) -> bytes:
    """Of two words."""
    return encoded(render("two words", "DejaVuSans", 16), format)


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def truncated(count: int) -> Iterator[bytes]:
    """Heads of pictures of each format."""
    source = random.Random(1)
    for format in FORMATS:
        whole = small_picture(format)
        for _ in range(count):
            yield whole[: source.randrange(len(whole) // 2)]


def mutated(count: int) -> Iterator[bytes]:
    """Pictures of each format with a few wrong bytes near their beginning; some can be read all the same."""
    source = random.Random(2)
    for format in FORMATS:
        whole = small_picture(format)
        for _ in range(count):
            content = bytearray(whole)
            for _ in range(source.randint(1, 8)):
                content[source.randrange(min(len(content), source.choice((64, 512))))] = source.randrange(256)
            yield bytes(content)


def no_images() -> dict[str, bytes]:
    """By what they are."""
    return {
        "nothing": b"",
        "a byte": b"\x89",
        "zeros": bytes(1000),
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><text>words</text></svg>',
        "HTML": b"<!DOCTYPE html><html><body>words</body></html>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "an icon": b"\x00\x00\x01\x00\x01\x00" + bytes(100),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "a signature": b"\x89PNG\r\n\x1a\n",
        "an archive": b"PK\x03\x04" + bytes(60),
        "a GIF's head": b"GIF89a\x01\x00\x01\x00",
    }


@cache
def bombs() -> dict[str, bytes]:
    """Small files that would be large pictures, or large notes on one, by what they are."""
    return {
        "a PNG of 40,000 by 40,000": png_of(40_000, 40_000),
        "a PNG as wide as can be": png_of(2**31 - 1, 1),
        "a GIF of 65,535 by 65,535": b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + _GIF_FRAME,
        "a BMP of 40,000 by 40,000": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 40_000, 40_000,
                                                         1, 24, 0, 0, 0, 0, 0, 0) + bytes(1000),
        "a WebP of 16,384 by 16,384": _resized_webp(16_384, 16_384),
        "a JPEG of 65,500 by 65,500": _resized_jpeg(65_500, 65_500),
        "a TIFF of 100,000 by 100,000": _resized_tiff(100_000, 100_000),
        "a PNG with 50 MB of notes": _png([(b"IHDR", struct.pack("!IIBBBBB", 9, 9, 8, 2, 0, 0, 0)),
                                            (b"zTXt", b"note\x00\x00" + zlib.compress(bytes(50_000_000), 9))]),
    }  # fmt: skip


def png_of(width: int, height: int) -> bytes:
    """Its header, and pixels that end too early."""
    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000), 9)), (b"IEND", b"")])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        parts.append(struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content)))
    return b"".join(parts)


_GIF_FRAME = b",\x00\x00\x00\x00\xff\xff\xff\xff\x00\x08\x02\x4c\x01\x00;"


def _resized_webp(width: int, height: int) -> bytes:
    content = small_picture("WEBP")
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sizes
    return b"RIFF" + struct.pack("<I", len(content) - 8 + len(extended)) + b"WEBP" + extended + content[12:]


def _resized_jpeg(width: int, height: int) -> bytes:
    content = bytearray(small_picture("JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack("!HH", height, width)
    return bytes(content)


def _resized_tiff(width: int, height: int) -> bytes:
    content = bytearray(small_picture("TIFF"))
    (directory,) = struct.unpack_from("<I", content, 4)
    for entry in range(struct.unpack_from("<H", content, directory)[0]):
        at = directory + 2 + 12 * entry
        if (size := {256: width, 257: height}.get(struct.unpack_from("<H", content, at)[0])) is not None:
            struct.pack_into("<HII", content, at + 2, 4, 1, size)
    return bytes(content)
