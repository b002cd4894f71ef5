"""Pictures of strangers: bytes to upright pixels; their size is known before anything is unpacked."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ml_service.common.errors import BadRequest, TooLarge

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_COSTS = {"WEBP": 2}
"""Its decoder takes as much again as another for each pixel, and more: so many fewer may there be."""
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
_END = 96
"""Shades that are dark, and as many that are bright."""
_STRIP_PIXELS = 1_000_000


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


def open_picture(data: bytes, max_pixels: int, enough_side: int, enough_pixels: int | None = None) -> Picture:
    """The first frame, upright, on a background where it was transparent; blocks.

    Where the shorter side is longer than `enough_side`, or there are more than `enough_pixels`, it is made smaller.
    Raises BadRequest where it is no picture or a broken one, TooLarge where it has more than `max_pixels`.
    """
    most = max_pixels
    try:
        with _at_most(max_pixels), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            most //= _COSTS.get(picture.format or "", 1)
            if picture.width * picture.height > most:
                raise Image.DecompressionBombError
            scale = enough_side / min(picture.size)
            if enough_pixels is not None:
                scale = min(scale, math.sqrt(enough_pixels / (picture.width * picture.height)))
            return _unpacked(picture, min(scale, 1.0))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the image has more than {most:,} pixels") from error
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


def _unpacked(picture: Image.Image, scale: float) -> Picture:
    width, height = picture.size
    smaller = max(round(width * scale), 1), max(round(height * scale), 1)
    picture.draft(None, smaller)  # a JPEG need not be unpacked whole
    picture.load()
    orientation = _orientation_of(picture)  # Pillow has turned a TIFF by now
    plain = _in_8_bit(picture) if picture.mode in _DEEP_MODES else picture
    pixels = _in_colours(_reduced(plain, smaller))
    if pixels.size != smaller:
        pixels = pixels.resize(smaller, Image.Resampling.BICUBIC)
    pixels = _on_background(pixels)
    if orientation in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[orientation])
        width, height = (height, width) if orientation >= 5 else (width, height)
    return Picture(pixels, width, height)


def _reduced(picture: Image.Image, smaller: tuple[int, int]) -> Image.Image:
    """By a whole number, strip by strip: whole copies of large pictures in other modes would take their size again."""
    times = min(picture.width // smaller[0], picture.height // smaller[1])
    if times < 2:
        return picture
    reduced: Image.Image | None = None
    for top, strip in _strips(picture, times):
        part = _in_colours(strip).reduce(times)
        if reduced is None:
            reduced = Image.new(part.mode, (part.width, -(-picture.height // times)))
        reduced.paste(part, (0, top // times))
    assert reduced is not None, "a picture has a row"
    return reduced


def _strips(picture: Image.Image, multiple: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Where each begins, and its rows: a multiple of so many."""
    rows = multiple * max(_STRIP_PIXELS // (picture.width * multiple), 1)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _orientation_of(picture: Image.Image) -> int:
    with suppress(*_BROKEN):  # broken notes on a picture do not make it unreadable
        return int(picture.getexif().get(_ORIENTATION, 1))
    return 1


def _in_colours(picture: Image.Image) -> Image.Image:
    """In RGB or RGBA."""
    if picture.mode in ("RGB", "RGBA"):
        return picture
    if picture.mode == "LAB":
        return picture.getchannel("L").convert("RGB")
    # A single colour or grey that stands for nothing is itself the ground that the letters' edges were mixed with.
    is_transparent = picture.mode not in ("L", "1") and picture.has_transparency_data
    return picture.convert("RGBA" if is_transparent else "RGB")


def _in_8_bit(picture: Image.Image) -> Image.Image:
    """From the darkest to the brightest: a scanner's 16 bit are often 12, and a number has no brightest value."""
    strips = (_numbers(strip) for _, strip in _strips(picture))
    ends = [(float(numbers.min()), float(numbers.max())) for numbers in strips]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    grey = Image.new("L", picture.size)
    for top, strip in _strips(picture):
        levels = (_numbers(strip) - low) * (255 / max(high - low, 1e-9))
        grey.paste(Image.fromarray(levels.astype(np.uint8)), (0, top))
    return grey


def _numbers(strip: Image.Image) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = np.nan_to_num(np.asarray(strip, np.float32), posinf=0, neginf=0)
    return numbers


def _on_background(pixels: Image.Image) -> Image.Image:
    """Without transparency, on white where most of what can be seen is dark, else on black."""
    if pixels.mode != "RGBA":
        return pixels
    alpha = pixels.getchannel("A")
    # Of edges there are all shades, of the letters themselves one.
    shades = pixels.convert("L").histogram(alpha.point([0] * 128 + [255] * 128))
    is_bright = sum(shades[-_END:]) > sum(shades[:_END])
    ground = Image.new("RGB", pixels.size, "black" if is_bright else "white")
    ground.paste(pixels, mask=alpha)
    return ground
