"""Pictures of strangers: bytes to upright pixels; their size is known before anything is unpacked."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageStat, UnidentifiedImageError

from ml_service.common.errors import BadRequest, TooLarge

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_BROKEN = (
    OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, TypeError, IndexError, KeyError,
    OverflowError, AttributeError, RuntimeError, ZeroDivisionError, AssertionError,
)  # fmt: skip
"""All that Pillow raises at broken files."""
_ORIENTATION = 0x0112
_TRANSPOSE = Image.Transpose
_UPRIGHT = {
    2: _TRANSPOSE.FLIP_LEFT_RIGHT, 3: _TRANSPOSE.ROTATE_180, 4: _TRANSPOSE.FLIP_TOP_BOTTOM, 5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270, 7: _TRANSPOSE.TRANSVERSE, 8: _TRANSPOSE.ROTATE_90,
}  # fmt: skip
"""What undoes each of EXIF's orientations (5 to 8 lie on their side)."""
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_BRIGHT = 128


@dataclass(frozen=True)
class Picture:
    """An upright picture in RGB, perhaps made smaller, and what its width and height were."""

    pixels: Image.Image
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Of the pixels here to those of the original."""
        return self.pixels.width / self.width


def open_picture(data: bytes, max_pixels: int, enough: int) -> Picture:
    """The first frame, upright, on a background where it was transparent; blocks.

    Where the shorter side is longer than `enough` it is made as short. Raises BadRequest where it is no picture or a
    broken one, TooLarge where it has more than `max_pixels`.
    """
    try:
        with _at_most(max_pixels), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise Image.DecompressionBombError
            return _unpacked(picture, enough)
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image has more than {max_pixels:,} pixels") from error
    except MemoryError as error:
        raise TooLarge("the image takes more memory to unpack than there is for one") from error
    except UnidentifiedImageError as error:
        raise BadRequest("this is no image that can be read: PNG, JPEG, WebP, GIF, BMP and TIFF can") from error
    except _BROKEN as error:
        raise BadRequest("the image is broken: it cannot be unpacked") from error


@contextmanager
def _at_most(max_pixels: int) -> Iterator[None]:
    """Pillow refuses more than twice its limit while it reads the header, and warns of much that it can read."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, -(-max_pixels // 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _unpacked(picture: Image.Image, enough: int) -> Picture:
    orientation = _orientation_of(picture)
    width, height = picture.size
    scale = min(1.0, enough / min(width, height))
    smaller = max(round(width * scale), 1), max(round(height * scale), 1)
    picture.draft(None, smaller)  # a JPEG need not be unpacked whole
    pixels = _in_colours(picture)
    if pixels.size != smaller:
        pixels = pixels.resize(smaller, Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = _on_background(pixels)
    if orientation in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[orientation])
        width, height = (height, width) if orientation >= 5 else (width, height)
    return Picture(pixels, width, height)


def _orientation_of(picture: Image.Image) -> int:
    with suppress(*_BROKEN):  # broken notes on a picture do not make it unreadable
        return int(picture.getexif().get(_ORIENTATION, 1))
    return 1


def _in_colours(picture: Image.Image) -> Image.Image:
    """In RGB or RGBA."""
    if picture.mode in _DEEP_MODES:
        return _in_8_bit(picture).convert("RGB")
    if picture.mode == "LAB":
        return picture.getchannel("L").convert("RGB")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _in_8_bit(picture: Image.Image) -> Image.Image:
    """From the darkest to the brightest: a scanner's 16 bit are often 12, and a number has no brightest value."""
    values: np.ndarray[Any, Any] = np.nan_to_num(np.asarray(picture, np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    values -= low
    values *= 255 / max(high - low, 1e-9)
    return Image.fromarray(values.astype(np.uint8))


def _on_background(pixels: Image.Image) -> Image.Image:
    """Without transparency, on white where what can be seen is dark, else on black."""
    if pixels.mode != "RGBA":
        return pixels
    alpha = pixels.getchannel("A")
    visible = alpha.point([0] * _BRIGHT + [255] * (256 - _BRIGHT))
    seen = ImageStat.Stat(pixels.convert("L"), visible)
    is_bright = seen.count[0] > 0 and seen.mean[0] >= _BRIGHT
    ground = Image.new("RGB", pixels.size, "black" if is_bright else "white")
    ground.paste(pixels, mask=alpha)
    return ground
