"""Two hundred pictures of text, always the same: `python -m tests.rendered_images FOLDER` writes them and labels."""

from __future__ import annotations

import bisect
import configparser
import csv
import fractions
import heapq
import inspect
import io
import keyword
import random
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import jiwer
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

COUNT = 200
_MODULES: tuple[ModuleType, ...] = (bisect, configparser, fractions, heapq, statistics, textwrap)
"""Code and prose of the standard library: a patch release of Python may change a few pictures."""
_CODE_FONTS = ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono", "cmtt10")
_PROSE_FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "Aileron", "DejaVuSans-Bold", "STIXGeneralBol", "cmr10")
_SIZES = (13, 14, 16, 18, 22, 28)
_FINENESS = 4
_LIGHT = (("#ffffff", "#1f2328", "#cf222e", "#6e7781"), ("#fdf6e3", "#586e75", "#859900", "#93a1a1"))
_DARK = (("#1e1e1e", "#d4d4d4", "#569cd6", "#6a9955"), ("#282a36", "#f8f8f2", "#ff79c6", "#7d8bb5"))
"""Background, text, keywords, comments."""
_STRAIGHT = dict.fromkeys((0x2018, 0x2019, ord("`")), "'") | dict.fromkeys((0x201C, 0x201D), '"')
_TOKEN = re.compile(r"#.*|\w+|\s+|[^\w\s]+")


@dataclass(frozen=True)
class Rendered:
    """A picture and what stands in it."""

    name: str
    data: bytes
    text: str
    is_code: bool
    is_noisy: bool


def rendered_images(numbers: range = range(COUNT)) -> Iterator[Rendered]:
    """By their numbers: code and prose in turn, the second half noisy."""
    code, prose = _code_pieces(), _prose_pieces()
    for number in numbers:
        source = random.Random(number)
        is_code, is_noisy = number % 2 == 0, number >= COUNT // 2
        font, size = source.choice(_CODE_FONTS if is_code else _PROSE_FONTS), source.choice(_SIZES)
        text = source.choice([text for text in (code if is_code else prose) if _has_all(font, text)])
        colours = source.choice(_DARK if number % 4 >= 2 else _LIGHT)
        picture = render(text, font, size, colours, is_code)
        suffix, data = _noisy(picture, source, colours[0]) if is_noisy else ("png", _encoded(picture, "PNG"))
        yield Rendered(f"{number:03d}.{suffix}", data, text, is_code, is_noisy)


def error_rate(expected: str, read: str) -> float:
    """Characters that are wrong, missing or too many, to those that stand there; white space of any kind is one space.

    Where a line ends and how far it is indented is not counted, and neither is how a quote is curved.
    """
    return float(jiwer.cer(*(" ".join(text.translate(_STRAIGHT).split()) for text in (expected, read))))


def strict_error_rate(expected: str, read: str) -> float:
    """With every line break, empty line and space."""
    return float(jiwer.cer(*(text.translate(_STRAIGHT) for text in (expected, read))))


def font_of(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Fonts that lie in our own installed packages: the same on every machine."""
    if name == "Aileron":
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont), "pillow was built without FreeType"
        return font
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None, "it is a dependency"
    return ImageFont.truetype(str(Path(spec.origin).parent / f"mpl-data/fonts/ttf/{name}.ttf"), size)


def render(
    text: str, font_name: str, size: int, colours: tuple[str, ...] = _LIGHT[0], is_code: bool = False
) -> Image.Image:
    """Lines of text on a background, `size` pixels high; code gets colours."""
    # Prose is drawn large and made smaller: FreeType's letters begin at whole pixels, a browser's do not.
    fineness = 1 if is_code else _FINENESS
    font = font_of(font_name, size * fineness)
    background, plain, keywords, comments = colours
    margin, pitch = int(font.size * 1.2), int(font.size * 1.4)
    lines = text.split("\n")
    width = max(int(font.getlength(line)) for line in lines) + 2 * margin
    picture = Image.new("RGB", (width, len(lines) * pitch + 2 * margin), background)
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        x, y = float(margin), margin + row * pitch
        for token in _TOKEN.findall(line) if is_code else [line]:
            is_comment = is_code and token.startswith("#")
            colour = comments if is_comment else keywords if is_code and keyword.iskeyword(token) else plain
            draw.text((x, y), token, colour, font)
            x += font.getlength(token)
    return picture.reduce(fineness)


def _has_all(font_name: str, text: str) -> bool:
    """TeX's roman has other signs in some places."""
    return font_name != "cmr10" or not set(text) & set('_<>{}|\\~^`"')


def _noisy(picture: Image.Image, source: random.Random, background: str) -> tuple[str, bytes]:
    """Turned by a few degrees, blurred, grained and badly packed, as a photograph of a screen is."""
    if source.random() < 0.6:
        angle, fill = source.uniform(-3, 3), ImageColor.getrgb(background)
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=fill)
    if source.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(source.uniform(0.3, 0.7)))
    if source.random() < 0.5:
        grain = np.random.default_rng(source.randrange(1 << 30)).normal(0, source.uniform(3, 10), picture.size[::-1])
        picture = Image.fromarray(np.clip(np.asarray(picture) + grain[..., None], 0, 255).astype(np.uint8))
    return "jpg", _encoded(picture, "JPEG", quality=source.randint(25, 60))


def _encoded(picture: Image.Image, format: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _code_pieces() -> list[str]:
    """Functions of 6 to 24 lines, without what the fonts lack."""
    functions = [
        member
        for module in _MODULES
        for owner in (module, *(each for _, each in inspect.getmembers(module, inspect.isclass)))
        for _, member in inspect.getmembers(owner, inspect.isfunction)
        if member.__module__ == module.__name__
    ]
    sources = sorted({textwrap.dedent(inspect.getsource(function)).rstrip() for function in functions})
    return [text for text in sources if 6 <= len(text.split("\n")) <= 24 and text.isascii()]


def _prose_pieces() -> list[str]:
    """Paragraphs of documentation, wrapped anew."""
    documents = [inspect.getdoc(module) or "" for module in _MODULES]
    documents += [
        inspect.getdoc(member) or ""
        for module in _MODULES
        for _, member in inspect.getmembers(module, lambda each: inspect.isclass(each) or inspect.isfunction(each))
        if member.__module__ == module.__name__
    ]
    paragraphs = sorted({" ".join(part.split()) for document in documents for part in document.split("\n\n")})
    plain = [
        text for text in paragraphs if 80 <= len(text) <= 900 and text.isascii() and not re.search(">>>|===|---", text)
    ]
    wrapped = [textwrap.fill(text, 58) for text in plain]
    pairs = [f"{first}\n\n{second}" for first, second in zip(wrapped[::2], wrapped[1::2], strict=False)]
    return wrapped + pairs


def main() -> None:
    """Write the pictures and `labels.csv` into a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "text"])
        for picture in rendered_images():
            (folder / picture.name).write_bytes(picture.data)
            rows.writerow([picture.name, picture.text])


if __name__ == "__main__":
    main()
