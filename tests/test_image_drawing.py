"""The picture of what was read: boxes that hide nothing, numbers beside them, the continuation below."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from ml_service.inference.drawing import _free_place, _overlap, _rows, draw
from ml_service.inference.reading import Reading, ReadLine
from tests.broken_images import encoded
from tests.rendered_images import render

LIMIT = 20_000_000


def line(text: str, left: float, top: float, width: float, height: float, confidence: float = 0.99) -> ReadLine:
    right, bottom = left + width, top + height
    return ReadLine(text, confidence, ((left, top), (right, top), (right, bottom), (left, bottom)))


def drawn(picture: Image.Image, lines: list[ReadLine], continuation: str = "and so on") -> Image.Image:
    reading = Reading("\n".join(each.text for each in lines), tuple(lines), *picture.size)
    return Image.open(io.BytesIO(draw(encoded(picture, "PNG"), LIMIT, reading, continuation)))


@pytest.mark.parametrize("size", [(40, 20), (300, 200), (1000, 700), (5000, 4000), (300, 6000), (6000, 200)])
def test_a_picture_of_any_size_becomes_one_that_can_be_looked_at(size: tuple[int, int]) -> None:
    width, height = size
    picture = drawn(Image.new("RGB", size, "white"), [line("words", width / 4, height / 4, width / 4, height / 8)])
    assert picture.format == "PNG"
    assert picture.width >= 720
    assert picture.width * picture.height < 8_000_000


def test_the_letters_that_were_read_stay_as_they_are() -> None:
    page = render("some words", "DejaVuSans", 20)
    page = page.resize((page.width * 6, page.height * 6))
    with_boxes = np.asarray(drawn(page, [line("some words", 140, 130, 620, 160)]))
    plain = np.asarray(page)
    left = next(
        x for x in range(300) if np.array_equal(with_boxes[150:270, x : x + 560], plain[150:270, 170:730])
    )  # the same pixels, beside a margin
    assert left > 170


@pytest.mark.parametrize(("confidence", "colour"), [(0.95, (45, 164, 78)), (0.8, (191, 135, 0)), (0.3, (250, 69, 73))])
def test_a_box_has_the_colour_of_its_confidence(confidence: float, colour: tuple[int, int, int]) -> None:
    picture = drawn(Image.new("RGB", (900, 300), "white"), [line("words", 300, 100, 200, 40, confidence)])
    assert colour in set(picture.convert("RGB").get_flattened_data())


def test_a_number_is_beside_its_box_and_on_no_other() -> None:
    boxes = [(100.0, 100.0, 200.0, 120.0), (210.0, 100.0, 300.0, 120.0), (100.0, 125.0, 300.0, 145.0)]
    taken = list(boxes)
    for box in boxes:
        place = _free_place(box, (50, 14), taken, (400, 300))
        assert not any(_overlap(place, other) for other in taken)
        taken.append(place)
    for one, other in itertools.combinations(taken, 2):
        assert not _overlap(one, other)


def test_the_continuation_is_wrapped_and_keeps_its_spaces() -> None:
    assert list(_rows("def f():\n\treturn 'x'\n\nlong" + "g" * 20, 16)) == [
        "def f():", "    return 'x'", "", "long" + "g" * 12, "g" * 8
    ]  # fmt: skip
    assert list(_rows("bell\x07", 16)) == ["bell·"]


def test_a_longer_continuation_makes_a_higher_picture_up_to_an_end() -> None:
    page = Image.new("RGB", (800, 100), "white")
    short, long, endless = (drawn(page, [], "words\n" * count).height for count in (2, 40, 100_000))
    assert short < long < endless < 20_000
