"""A picture of what was read: pieces boxed, with their order and confidence; the continuation below."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw, ImageFont

from ml_service.inference.pictures import open_picture
from ml_service.inference.reading import Point, Reading, ReadLine

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Place = tuple[float, float, float, float]
"""Left, top, right, bottom."""
_ENOUGH_SIDE, _ENOUGH_PIXELS, _LEAST_WIDTH = 1400, 5_000_000, 720
_MOST_ENLARGED = 2000
_SURE, _FAIRLY_SURE = 0.9, 0.75
_COLOURS = "#1a7f37", "#9a6700", "#cf222e"
"""Sure, fairly sure, unsure: white is read well on each."""
_LINE_COLOURS = "#2da44e", "#bf8700", "#fa4549"
"""As those, seen on white and on black."""
_PAPER, _INK, _PALE = "#ffffff", "#1f2328", "#59636e"
_LABEL_SIZES, _TEXT_SIZES = (11, 22), (15, 22)
_INSET = 0.09
"""Of a box's height: the boxes of lines are higher than their letters and overlap."""
_MOST_ROWS = 400
_TAB = 4


def draw(image: bytes, max_pixels: int, reading: Reading, continuation: str) -> bytes:
    """As PNG; blocks. Raises BadRequest or TooLarge where the image is none that could have been read."""
    picture = open_picture(image, max_pixels, _ENOUGH_SIDE, _ENOUGH_PIXELS)
    pixels = _large_enough(picture.pixels)
    scale = pixels.width / picture.width
    height = median([math.dist(line.box[0], line.box[3]) for line in reading.lines] or [0.0]) * scale
    label_font = _font(_clamped(0.5 * height, _LABEL_SIZES))
    margin = math.ceil(label_font.getlength(_label(len(reading.lines), 1.0))) + 8
    canvas = Image.new("RGB", (max(pixels.width + 2 * margin, _LEAST_WIDTH), pixels.height), _PAPER)
    canvas.paste(pixels, (margin, 0))
    _draw_boxes(canvas, [_inset(line, scale, margin) for line in reading.lines], reading.lines, label_font)
    return _as_png(_with_below(canvas, reading, continuation, _font(_clamped(0.7 * height, _TEXT_SIZES))))


def _large_enough(pixels: Image.Image) -> Image.Image:
    times = round(_LEAST_WIDTH / pixels.width)
    if times < 2 or pixels.height > _MOST_ENLARGED:
        return pixels
    return pixels.resize((pixels.width * times, pixels.height * times), Image.Resampling.BICUBIC)


def _font(size: int) -> Font:
    """DejaVu Sans Mono as it lies in matplotlib, which is not imported; Pillow's own where it is not there."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSansMono.ttf"
        if path.exists():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)


def _clamped(size: float, limits: tuple[int, int]) -> int:
    return int(min(max(size, limits[0]), limits[1]))


def _label(number: int, confidence: float) -> str:
    return f"{number} {confidence:.0%}"


def _colour(confidence: float, colours: tuple[str, str, str]) -> str:
    sure, fairly, unsure = colours
    return sure if confidence >= _SURE else fairly if confidence >= _FAIRLY_SURE else unsure


def _inset(line: ReadLine, scale: float, margin: int) -> list[Point]:
    """A box's corners on the canvas, nearer to its letters."""
    corners = [(x * scale + margin, y * scale) for x, y in line.box]
    upper, lower = (corners[0], corners[1]), (corners[3], corners[2])
    pairs = list(zip(upper, lower, strict=True))
    tops = [(x + (u - x) * _INSET, y + (v - y) * _INSET) for (x, y), (u, v) in pairs]
    bottoms = [(u - (u - x) * _INSET, v - (v - y) * _INSET) for (x, y), (u, v) in pairs]
    return [tops[0], tops[1], bottoms[1], bottoms[0]]


def _draw_boxes(canvas: Image.Image, boxes: Sequence[list[Point]], lines: Sequence[ReadLine], font: Font) -> None:
    brush = ImageDraw.Draw(canvas)
    taken = [_around(box) for box in boxes]
    for number, (box, line) in enumerate(zip(boxes, lines, strict=True), 1):
        label = _label(number, line.confidence)
        brush.line([*box, box[0]], _colour(line.confidence, _LINE_COLOURS), 1 if canvas.width < 2 * _LEAST_WIDTH else 2)
        left, top, right, bottom = brush.textbbox((0, 0), label, font)
        size = right - left + 6, bottom - top + 4
        place = _free_place(_around(box), size, taken, canvas.size)
        taken.append(place)
        brush.rectangle(place, _colour(line.confidence, _COLOURS))
        brush.text((place[0] + 3 - left, place[1] + 2 - top), label, "white", font)


def _around(box: Sequence[Point]) -> Place:
    xs, ys = [x for x, _ in box], [y for _, y in box]
    return min(xs), min(ys), max(xs), max(ys)


def _free_place(box: Place, size: tuple[float, float], taken: Sequence[Place], canvas: tuple[int, int]) -> Place:
    """Beside the box where nothing was read: left, right, above or below it; else left all the same."""
    left, top, right, bottom = box
    width, height = size
    middle = (top + bottom - height) / 2
    corners = (left - width - 1, middle), (right + 1, middle), (left, top - height - 1), (left, bottom + 1)
    places = [(x, y, x + width, y + height) for x, y in corners]
    for place in places:
        is_inside = place[0] >= 0 and place[1] >= 0 and place[2] <= canvas[0] and place[3] <= canvas[1]
        if is_inside and not any(_overlap(place, other) for other in taken):
            return place
    return places[0]


def _overlap(one: Place, other: Place) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _with_below(picture: Image.Image, reading: Reading, continuation: str, font: Font) -> Image.Image:
    """The picture, a legend, and the continuation in rows as wide as the picture."""
    margin, pitch = 16, round(font.getbbox("Äg|")[3] * 1.35)
    columns = max(int((picture.width - 2 * margin) / font.getlength("m")), 8)
    rows = list(islice(_rows(continuation, columns), _MOST_ROWS + 1))
    if len(rows) > _MOST_ROWS:
        rows[-1] = "… and so on"
    small = _font(13)
    legend = textwrap.wrap(_legend(reading), int((picture.width - 2 * margin) / small.getlength("m")))
    height = picture.height + 2 * margin + 20 * len(legend) + 12 + pitch * len(rows) + margin
    canvas = Image.new("RGB", (picture.width, height), _PAPER)
    canvas.paste(picture, (0, 0))
    brush = ImageDraw.Draw(canvas)
    y = picture.height + margin // 2
    brush.line([(0, picture.height), (canvas.width, picture.height)], _PALE)
    for row in legend:
        brush.text((margin, y), row, _PALE, small)
        y += 20
    y += 12
    for row in rows:
        brush.text((margin, y), row, _INK, font)
        y += pitch
    return canvas


def _legend(reading: Reading) -> str:
    return (
        f"{len(reading.lines)} pieces of text, numbered as they were read, and how sure the reader is: green from "
        f"{_SURE:.0%}, ochre from {_FAIRLY_SURE:.0%}, else red. Below them what the model goes on with:"
    )


def _rows(text: str, columns: int) -> Iterator[str]:
    """As wide as there is room; spaces count, as they do in code."""
    for line in text.expandtabs(_TAB).split("\n"):
        shown = "".join(character if character.isprintable() else "·" for character in line)
        for begin in range(0, max(len(shown), 1), columns):
            yield shown[begin : begin + columns]


def _as_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)
    return file.getvalue()
