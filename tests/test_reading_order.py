"""Where pieces stand decides how they are read: columns, lines, spaces, indentation, empty lines; turned or not."""

from __future__ import annotations

import math
import random

from ml_service.inference.reading import Point, ReadLine
from ml_service.inference.reading_order import Piece, read_in_order

WIDTH, HEIGHT, PITCH = 8.0, 20.0, 24.0


def piece(
    text: str, column: float, row: float, width: float = WIDTH, angle: float = 0.0, height: float = HEIGHT
) -> Piece:
    """A piece whose box is a little wider than its text, as the detector's are."""
    left, top = column * WIDTH - 3, row * PITCH
    right = left + len(text) * width + 6
    corners = [(left, top), (right, top), (right, top + height), (left, top + height)]
    first, second, third, fourth = (turned(corner, angle) for corner in corners)
    return Piece(ReadLine(text, 0.99, (first, second, third, fourth)), width)


def turned(point: Point, angle: float) -> Point:
    (x, y), cos, sin = point, math.cos(angle), math.sin(angle)
    return x * cos - y * sin, x * sin + y * cos


def prose(text: str, column: float, row: float) -> Piece:
    """Its characters are of many widths."""
    return piece(text, column, row, WIDTH * (0.85 + 0.3 * random.Random(text).random()))


def text_of(pieces: list[Piece]) -> str:
    random.Random(0).shuffle(pieces)
    return read_in_order(pieces)[0]


def pieces_of(code: str, angle: float = 0.0) -> list[Piece]:
    lines = enumerate(code.split("\n"))
    return [piece(line.strip(), len(line) - len(line.lstrip()), row, angle=angle) for row, line in lines if line]


CODE = """\
class Reader:
    def read(self, path):
        with open(path) as file:
            return [
                line
                for line in file
                if line.strip()
            ]


    def close(self):
        self.done(really=True,
                  at_once=False)

print(Reader)"""


def test_code_keeps_its_indentation_and_its_empty_lines() -> None:
    assert text_of(pieces_of(CODE)) == CODE


def test_a_picture_turned_by_a_few_degrees_is_read_as_a_straight_one() -> None:
    for degrees in (-5, -2, 0.5, 3, 5):
        assert text_of(pieces_of(CODE, math.radians(degrees))) == CODE


def test_boxes_that_are_not_quite_exact_change_nothing() -> None:
    source = random.Random(3)
    shaken = []
    for each in pieces_of(CODE):
        x, y = source.uniform(-1.5, 1.5), source.uniform(-2, 2)
        first, second, third, fourth = ((left + x, top + y) for left, top in each.line.box)
        shaken.append(
            Piece(ReadLine(each.line.text, 0.9, (first, second, third, fourth)), WIDTH * source.uniform(0.99, 1.01))
        )
    assert text_of(shaken) == CODE


def test_prose_has_no_indentation() -> None:
    lines = ["  The first line of a paragraph begins", "further to the right than all the others", "and nobody cares"]
    pieces = [prose(line.strip(), 2 if row == 0 else 0, row) for row, line in enumerate(lines)]
    assert text_of(pieces) == "\n".join(line.strip() for line in lines)


def test_paragraphs_are_apart() -> None:
    rows = {
        0: "One paragraph has a line",
        1: "and another one in it",
        2.7: "the next stands below",
        3.7: "and ends here",
    }
    pieces = [prose(text, 0, row) for row, text in rows.items()]
    assert text_of(pieces) == "One paragraph has a line\nand another one in it\n\nthe next stands below\nand ends here"


LEFT = ["the left column is read first to", "its very end before anything that", "stands in the right one is looked at"]
RIGHT = [
    "only then comes the right column,",
    "which has as many lines as the left",
    "one and fills its width as prose does",
]


def test_columns_are_read_one_after_the_other() -> None:
    pieces = [prose(text, 0, row) for row, text in enumerate(LEFT)] + [
        prose(text, 50, row + 0.3) for row, text in enumerate(RIGHT)
    ]
    assert text_of(pieces).split() == " ".join(LEFT + RIGHT).split()


def test_a_heading_over_two_columns_and_a_line_below_them_stay_where_they_are() -> None:
    heading, below = (
        "A heading that goes over both of the columns which stand below it all the way",
        "And the last line, " * 4,
    )
    columns = [prose(text, 0, row + 2) for row, text in enumerate(LEFT)]
    columns += [prose(text, 50, row + 2) for row, text in enumerate(RIGHT)]
    pieces = [prose(heading, 0, 0), *columns, prose(below.strip(), 0, 6)]
    assert text_of(pieces).split() == " ".join([heading, *LEFT, *RIGHT, below]).split()


def test_three_columns_are_three() -> None:
    columns = [[f"column {name} line {row} goes on to the end" for row in range(5)] for name in "abc"]
    pieces = [prose(text, 45 * index, row) for index, column in enumerate(columns) for row, text in enumerate(column)]
    assert text_of(pieces).split() == " ".join(text for column in columns for text in column).split()


def test_comments_behind_code_are_no_column() -> None:
    code = ["width = 640", "height = 480 * scale", "area = width * height", "print(area)", "x = 1"]
    notes = ["# pixels", "# the same, made larger", "# what is needed for all of it", "# so there", "# one"]
    pieces = [piece(text, 0, row) for row, text in enumerate(code)]
    pieces += [piece(text, 30, row) for row, text in enumerate(notes)]
    assert text_of(pieces) == "\n".join(f"{text:<30}{note}" for text, note in zip(code, notes, strict=True))


def test_a_table_is_read_line_by_line() -> None:
    rows = [("name", "price"), ("apples", "1.20"), ("pears", "2.45"), ("plums", "0.99")]
    pieces = [prose(cell, 20 * column, row) for row, cells in enumerate(rows) for column, cell in enumerate(cells)]
    assert [line.split() for line in text_of(pieces).split("\n")] == [list(row) for row in rows]


def test_lines_come_in_the_order_of_the_text() -> None:
    text, lines = read_in_order(pieces_of(CODE)[::-1])
    assert [line.text for line in lines] == [line.strip() for line in text.split("\n") if line]


def test_a_single_piece_is_its_text() -> None:
    assert read_in_order([piece("x", 3, 4)])[0] == "x"
