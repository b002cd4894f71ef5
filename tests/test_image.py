"""What the models read: fonts, themes, sizes, turned and transparent pictures; scripts; models that are not ours."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ml_service.common.errors import BundleRefused, ModelFailure
from ml_service.inference.image import TextReader, _models_folder, open_text_reader
from ml_service.inference.reading import Reading
from tests.broken_images import encoded
from tests.rendered_images import COUNT, error_rate, render, rendered_images, strict_error_rate

LIMIT = 20_000_000
CODE = """\
def total(prices, rate=0.2):
    result = 0
    for price in prices:
        if price > 0:
            result += price * (1 + rate)

    return result"""
DARK = ("#1e1e1e", "#d4d4d4", "#569cd6", "#6a9955")


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return open_text_reader(2)


def read(reader: TextReader, picture: Image.Image, format: str = "PNG", **options: object) -> Reading:
    return reader.read(encoded(picture, format, **options), LIMIT)


def test_code_is_read_as_it_stands(reader: TextReader) -> None:
    for size in (12, 16, 28):
        picture = render(CODE, "DejaVuSansMono", size, is_code=True)
        reading = read(reader, picture)
        assert reading.text == CODE
        assert (reading.width, reading.height) == picture.size
        assert [line.text for line in reading.lines] == [line.strip() for line in CODE.split("\n") if line]
        assert all(line.confidence > 0.8 for line in reading.lines)


def test_light_text_on_a_dark_ground_is_read(reader: TextReader) -> None:
    assert read(reader, render(CODE, "DejaVuSansMono", 16, DARK, is_code=True)).text == CODE


def test_a_box_lies_around_its_text(reader: TextReader) -> None:
    picture = Image.new("RGB", (900, 400), "white")
    picture.paste(render("one line", "DejaVuSans", 20), (500, 200))
    (line,) = read(reader, picture).lines
    (left, top), (right, _), (_, bottom), _ = line.box
    # The text itself is 82 by 20 pixels and stands 24 within what was pasted.
    assert 510 < left < 526 and 598 < right < 625 and 215 < top < 232 and 236 < bottom < 256


def test_boxes_are_those_of_the_picture_and_not_of_a_smaller_one(reader: TextReader) -> None:
    picture = Image.new("RGB", (4000, 2400), "white")
    picture.paste(render("one line", "DejaVuSans", 80), (2000, 1200))
    (line,) = read(reader, picture).lines
    assert 2020 < line.box[0][0] < 2110 and 2380 < line.box[1][0] < 2500


@pytest.mark.parametrize("degrees", [-4, 4])
def test_a_turned_picture_is_read(reader: TextReader, degrees: int) -> None:
    picture = render(CODE, "DejaVuSansMono", 18, is_code=True)
    picture = picture.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    assert error_rate(CODE, read(reader, picture).text) < 0.05


@pytest.mark.parametrize("ink", ["black", "white"])
def test_text_on_nothing_is_read(reader: TextReader, ink: str) -> None:
    shape = render("words on nothing", "DejaVuSans", 20, ("black", "white", "white", "white")).convert("L")
    picture = Image.new("RGBA", shape.size, ink)
    picture.putalpha(shape)
    assert read(reader, picture).text == "words on nothing"


def test_a_long_picture_is_read_in_pieces_and_in_order(reader: TextReader) -> None:
    lines = [f"This is line number {number} of many" for number in range(50)]
    picture = render("\n".join(lines), "DejaVuSans", 26)
    assert picture.height > 1500
    assert read(reader, picture).text.split("\n") == lines


def test_columns_are_read_one_after_the_other(reader: TextReader) -> None:
    left = "The left column of a page\nis read to its very end\nbefore the right one is.\nThat is how it is done."
    right = "Then comes what stands in\nthe right one, which has\nas many lines as the left\nor maybe one more line.\n"
    picture = Image.new("RGB", (760, 330), "white")
    picture.paste(render("A heading that is as wide as the two columns below it", "DejaVuSerif", 24), (0, 0))
    picture.paste(render(left, "DejaVuSans", 20), (0, 110))
    picture.paste(render(right, "DejaVuSans", 20), (370, 110))
    expected = f"A heading that is as wide as the two columns below it {left} {right}"
    assert read(reader, picture).text.split() == expected.split()


@pytest.mark.parametrize(
    "text",
    [
        "Zażółć gęślą jaźń, naïve façade",
        "Größe, Übung, Straße, Ärger",
        "São João não é aqui, señor",
        "Příliš žluťoučký kůň úpěl",
        "Türkçe güzel şey",
    ],
)
def test_latin_letters_with_marks_are_read(reader: TextReader, text: str) -> None:
    assert error_rate(text, read(reader, render(text, "DejaVuSans", 28)).text) <= 0.1


@pytest.mark.parametrize("text", ["中文文本识别测试今天天气很好", "繁體中文測試", "日本語のテキスト、カタカナ"])
def test_chinese_and_japanese_are_read(reader: TextReader, text: str) -> None:
    try:
        font = cv2.FontFace("uni")  # a build of OpenCV may leave it out
    except cv2.error:
        pytest.skip("there is no font here that has these letters")
    pixels = np.full((90, 900, 3), 255, np.uint8)
    cv2.putText(pixels, text, (20, 60), (0, 0, 0), font, 32)
    assert read(reader, Image.fromarray(pixels)).text == text


def test_scripts_that_are_not_known_give_no_wrong_text_but_a_reason(reader: TextReader) -> None:
    for text in ("Привет, как дела сегодня?", "Здравствуйте", "Быстрая лисица прыгает", "مرحبا بالعالم", "שלום עולם"):
        with pytest.raises(ModelFailure, match="none of it could be read"):
            read(reader, render(text, "DejaVuSans", 28))


def test_an_empty_picture_says_so(reader: TextReader) -> None:
    for size in ((1, 1), (1, 5000), (300, 200)):
        with pytest.raises(ModelFailure, match="no text was found"):
            read(reader, Image.new("RGB", size, "white"))


def test_a_model_that_is_missing_or_another_is_refused_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("somebody wants to reach the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(BundleRefused, match=r"PP-OCRv6_det_small.onnx, which reads images, is missing"):
        open_text_reader(1, tmp_path)
    for model in _models_folder().glob("*.onnx"):
        shutil.copy(model, tmp_path)
    altered = tmp_path / "PP-OCRv6_rec_small.onnx"
    content = bytearray(altered.read_bytes())
    content[1_000_000] ^= 1
    altered.write_bytes(content)
    with pytest.raises(BundleRefused, match=r"PP-OCRv6_rec_small.onnx, .* is not the one that was tested"):
        open_text_reader(1, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in _models_folder().glob("*.onnx")
    )


def test_a_sample_of_the_rendered_pictures_is_read(reader: TextReader) -> None:
    rates = [
        error_rate(picture.text, reader.read(picture.data, LIMIT).text)
        for picture in rendered_images(range(1, COUNT, 40))
    ]
    assert max(rates) < 0.1


@pytest.mark.slow
def test_two_hundred_rendered_pictures_are_read(reader: TextReader) -> None:
    clean, noisy, code = [], [], []
    for picture in rendered_images():
        text = reader.read(picture.data, LIMIT).text
        (noisy if picture.is_noisy else clean).append(error_rate(picture.text, text))
        if picture.is_code and not picture.is_noisy:
            code.append(strict_error_rate(picture.text, text))
    assert len(clean) == len(noisy) == 100
    assert sum(clean) / len(clean) <= 0.03
    assert sum(noisy) / len(noisy) <= 0.10
    assert sum(code) / len(code) <= 0.04  # with all indentation and empty lines
