"""From pieces of text with places to text: columns, lines, order, spaces, indentation, empty lines; pure geometry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ml_service.inference.columns import Rectangle, in_columns, in_lines
from ml_service.inference.reading import ReadLine

_ON_GRID_CHARACTERS = 0.7
_GRID_LENGTH, _SOME_LINES = 8, 5
_SAME_INDENTATION = 0.45
"""Of a character: how far from another a line may begin and still be indented as that one."""
_EMPTY_LINE = 0.55
"""Of the distance of two lines: so much more is an empty line between them."""
_MOST_EMPTY_LINES = 2
_MOST_SPACES = 80


@dataclass(frozen=True)
class Piece:
    """What was read in one place, and how far its characters are apart in pixels: 0 where there is but one."""

    line: ReadLine
    pitch: float


@dataclass(frozen=True)
class _Placed(Rectangle):
    """A piece in the coordinates of the text itself, whichever way the picture is turned."""

    piece: Piece

    @property
    def text(self) -> str:
        return self.piece.line.text

    @property
    def margin(self) -> float:
        """How much wider than its text a box is, on each side."""
        return max(self.right - self.left - len(self.text) * self.piece.pitch, 0) / 2 if self.piece.pitch else 0.0

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def read_in_order(pieces: Sequence[Piece]) -> tuple[str, tuple[ReadLine, ...]]:
    """The text, and its pieces in the order in which they are read."""
    placed = _upright(pieces)
    texts, ordered = [], []
    for block in in_columns(placed, _grid(placed) is not None):
        lines = in_lines(block)
        texts.append(_text_of(lines))
        ordered += [each.piece.line for line in lines for each in line]
    return "\n\n".join(texts), tuple(ordered)


def _upright(pieces: Sequence[Piece]) -> list[_Placed]:
    """Turned back by the angle of most of the lines: the places of lines decide, and how long and high they are."""
    angle = _angle_of([piece.line for piece in pieces])
    cos, sin = math.cos(angle), math.sin(angle)
    placed = []
    for piece in pieces:
        corners = piece.line.box
        x, y = sum(x for x, _ in corners) / 4, sum(y for _, y in corners) / 4
        x, y = x * cos + y * sin, y * cos - x * sin
        half_width, half_height = math.dist(*corners[:2]) / 2, math.dist(corners[0], corners[3]) / 2
        placed.append(_Placed(x - half_width, x + half_width, y - half_height, y + half_height, piece))
    return placed


def _angle_of(lines: Iterable[ReadLine]) -> float:
    """Of the middle one, each line counted by its length; short ones say little."""
    angles = []
    for line in lines:
        (left, top), (right, right_top) = line.box[:2]
        angles.append((math.atan2(right_top - top, right - left), math.dist(*line.box[:2])))
    angles.sort()
    rest = sum(length for _, length in angles) / 2
    for angle, length in angles:
        rest -= length
        if rest <= 0:
            return angle
    return 0.0


def _text_of(lines: Sequence[Sequence[_Placed]]) -> str:
    grid = _grid([each for line in lines for each in line])
    indentations = _indentations([line[0].left for line in lines], grid) if grid is not None else [0] * len(lines)
    empty = [0, *_empty_lines(lines)]
    return "\n".join(
        "\n" * above + " " * indentation + _joined(line, grid)
        for line, indentation, above in zip(lines, indentations, empty, strict=True)
    )


def _grid(placed: Sequence[_Placed]) -> float | None:
    """How wide each character is, in pixels, where all are equally wide: then line lengths agree to a character."""
    long = [each for each in placed if len(each.text) >= _GRID_LENGTH]
    if len(long) < 2:
        return None
    width = median(each.piece.pitch for each in long)
    off = sorted(abs(each.piece.pitch / width - 1) * (len(each.text) - 1) for each in long) if width else [math.inf]
    # In some lines a space is lost; of few lines more must agree.
    most = off[len(off) // 2] if len(off) >= _SOME_LINES else off[len(off) * 2 // 3]
    return width if most < _ON_GRID_CHARACTERS else None


def _indentations(lefts: Sequence[float], width: float) -> list[int]:
    """In characters from the leftmost line. Lines that begin at nearly one place begin at one place."""
    order = sorted(range(len(lefts)), key=lambda index: lefts[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and lefts[index] - lefts[groups[-1][-1]] < _SAME_INDENTATION * width:
            groups[-1].append(index)
        else:
            groups.append([index])
    places = [median(lefts[index] for index in group) for group in groups]
    indentations = [0] * len(lefts)
    for group, place in zip(groups, places, strict=True):
        for index in group:
            indentations[index] = round((place - places[0]) / width)
    return indentations


def _joined(line: Sequence[_Placed], grid: float | None) -> str:
    """The pieces of a line with as many spaces between them as there is room for, one at least, a line's at most."""
    text, before = line[0].text, line[0]
    for each in line[1:]:
        if grid is not None:
            spaces = round((each.left - line[0].left) / grid) - len(text)
        else:
            gap = each.left + each.margin - (before.right - before.margin)
            spaces = round(gap / (each.piece.pitch or each.height / 2))
        text += " " * min(max(spaces, 1), _MOST_SPACES) + each.text
        before = each
    return text


def _empty_lines(lines: Sequence[Sequence[_Placed]]) -> list[int]:
    """How many are between each line and the next: where they are clearly further apart than the others."""
    middles = [median(each.middle for each in line) for line in lines]
    distances = [below - above for above, below in pairwise(middles)]
    if len(distances) < 2:
        return [0] * len(distances)
    usual = sorted(distances)[(len(distances) - 1) // 4]  # every second line may be empty
    heights = [max(each.height for each in line) for line in lines]
    usual_height = median(heights)
    counts = []
    for distance, (above, below) in zip(distances, pairwise(heights), strict=True):
        # A heading is further from its text because it is higher.
        more = distance / (usual * max(1, (above + below) / 2 / usual_height)) - 1
        counts.append(min(max(1, round(more)), _MOST_EMPTY_LINES) if more > _EMPTY_LINE else 0)
    return counts
