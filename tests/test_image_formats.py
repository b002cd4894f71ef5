"""What becomes of a picture before it is read: formats, orientation, transparency, depth, limits, broken ones."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageOps

from ml_service.common.errors import BadRequest, ServiceError, TooLarge
from ml_service.inference.pictures import Picture, open_picture
from tests.broken_images import FORMATS, bombs, encoded, mutated, no_images, png_of, truncated
from tests.rendered_images import render

LIMIT = 1_000_000
PLAIN = render("two words", "DejaVuSans", 16)


def opened(data: bytes, max_pixels: int = LIMIT, enough: int = 1000) -> Picture:
    return open_picture(data, max_pixels, enough)


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_is_known_by_its_content(format: str) -> None:
    picture = opened(encoded(PLAIN, format))
    assert picture.pixels.mode == "RGB"
    assert difference(picture.pixels, PLAIN) < 3
    assert (picture.width, picture.height) == PLAIN.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_was_held(orientation: int) -> None:
    undone = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)
    file = io.BytesIO()
    PLAIN.save(file, "PNG", exif=_orientation(undone))
    lying = ImageOps.exif_transpose(Image.open(file))
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        picture = opened(encoded(lying, format, exif=_orientation(orientation)))
        assert (picture.width, picture.height) == PLAIN.size
        assert difference(picture.pixels, PLAIN) < 3


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("white", "black")])
def test_what_is_transparent_becomes_a_ground_on_which_the_text_is_seen(ink: str, paper: str) -> None:
    expected = render("two words", "DejaVuSans", 16, (paper, ink, ink, ink))
    shape = ImageOps.invert(PLAIN.convert("L"))
    clear = Image.new("RGBA", PLAIN.size, (0, 0, 0, 0))
    clear.paste(Image.new("RGBA", PLAIN.size, ink), mask=shape)
    for data in (encoded(clear, "PNG"), encoded(clear, "WEBP", lossless=True), encoded(clear.convert("LA"), "PNG")):
        assert difference(opened(data).pixels, expected) < 25
    assert difference(opened(encoded(clear.quantize(16), "PNG")).pixels, expected) < 40


def test_a_palette_with_a_place_for_nothing_is_transparent() -> None:
    palette = PLAIN.quantize(16)
    white = palette.getpixel((0, 0))
    for format in ("GIF", "PNG"):
        assert difference(opened(encoded(palette, format, transparency=white)).pixels, PLAIN) < 8


def test_a_colour_that_stands_for_nothing_is_seen() -> None:
    data = encoded(PLAIN, "PNG", transparency=(255, 255, 255))
    assert difference(opened(data).pixels, PLAIN) < 3


def test_every_depth_and_every_kind_of_colour_is_read() -> None:
    grey = PLAIN.convert("L")
    deep = np.asarray(grey, np.uint16) * 16 + 1000  # 12 of 16 bits, as scanners give
    kinds = {
        "grey": encoded(grey, "PNG"),
        "1 bit": encoded(grey.convert("1"), "PNG"),
        "palette": encoded(PLAIN.quantize(8), "PNG"),
        "16 bit": encoded(Image.fromarray(deep), "PNG"),
        "16 bit TIFF": encoded(Image.fromarray(deep), "TIFF"),
        "32 bit": encoded(Image.fromarray(deep.astype(np.int32) * 1000), "TIFF"),
        "floats": encoded(Image.fromarray(deep.astype(np.float32) / 7), "TIFF"),
        "CMYK": encoded(PLAIN.convert("CMYK"), "JPEG"),
        "CMYK TIFF": encoded(PLAIN.convert("CMYK"), "TIFF"),
        "LAB": encoded(_lab(grey), "TIFF"),
        "YCbCr": encoded(PLAIN.convert("YCbCr"), "TIFF"),
    }
    for kind, data in kinds.items():
        assert difference(opened(data).pixels.convert("L"), grey) < 20, kind


def _lab(grey: Image.Image) -> Image.Image:
    even = Image.new("L", grey.size, 128)
    return Image.merge("LAB", (grey, even, even))


def test_numbers_that_are_none_do_not_hide_the_others() -> None:
    values = np.asarray(PLAIN.convert("L"), np.float32).copy()
    values[0, 0], values[0, 1] = np.nan, np.inf
    assert difference(opened(encoded(Image.fromarray(values), "TIFF")).pixels, PLAIN) < 3


def test_of_an_animation_the_first_frame_is_read() -> None:
    other = Image.new("RGB", PLAIN.size, "black")
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(PLAIN, format, save_all=True, append_images=[other, other])
        assert difference(opened(data).pixels, PLAIN) < 3, format


def test_a_large_picture_is_made_smaller_and_says_what_it_was() -> None:
    large = PLAIN.resize((PLAIN.width * 7, PLAIN.height * 7))
    for picture in (large, large.convert("RGBA"), large.convert("L"), large.quantize(16), large.convert("I;16")):
        for format in ("PNG", "TIFF"):
            shown = opened(encoded(picture, format), enough=PLAIN.height * 2)
            assert (shown.width, shown.height) == large.size
            assert shown.pixels.size == (PLAIN.width * 2, PLAIN.height * 2)
            assert difference(shown.pixels.convert("RGB").resize(PLAIN.size), PLAIN) < 12, picture.mode


def test_pixels_are_counted_before_they_are_unpacked() -> None:
    with pytest.raises(TooLarge, match="more than 1,000,000 pixels"):
        opened(png_of(1001, 1000))
    with pytest.raises(BadRequest, match="broken"):
        opened(png_of(1000, 1000))  # which was unpacked
    with pytest.raises(TooLarge, match="more than 500,000 pixels"):
        opened(encoded(Image.new("RGB", (1000, 501)), "WEBP"))


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_in_words(name: str) -> None:
    with pytest.raises((TooLarge, BadRequest), match=r"^the image (has more than|is broken)"):
        opened(bombs()[name])


@pytest.mark.parametrize("name", no_images())
def test_what_is_no_picture_is_refused_whatever_it_is_called(name: str) -> None:
    with pytest.raises(BadRequest, match="no image that can be read: PNG, JPEG, WebP, GIF, BMP and TIFF can"):
        opened(no_images()[name])


def test_broken_pictures_by_the_hundred_are_refused_or_read_and_never_a_bug() -> None:
    for data in truncated(50):
        with pytest.raises(ServiceError):
            opened(data)
    refused = 0
    for data in itertools.islice(mutated(50), 300):
        try:
            opened(data)
        except (BadRequest, TooLarge):
            refused += 1
    assert refused > 100


def test_broken_notes_on_a_picture_do_not_make_it_unreadable() -> None:
    data = encoded(PLAIN, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert difference(opened(data).pixels, PLAIN) < 3
