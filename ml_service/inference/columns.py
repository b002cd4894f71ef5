"""Columns of text: blocks of rectangles in reading order. Code with comments behind it is one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

_SAME_LINE = 0.5
"""Of the smaller height: pieces that overlap so much stand on one line."""
_LEAST_LINES = 3
_CORRIDOR = 0.4
"""Of a line's height: what columns are apart at least, in boxes that are wider than their text."""
_FULL = 0.75
"""Of a column's width: what the middle one of its lines fills where it is prose."""
_LEAST_WIDTH, _LEAST_WIDTH_MONOSPACED = 8.0, 16.0
"""Of a line's height: narrower columns are those of a table or comments behind code, which are read line by line."""


@dataclass(frozen=True)
class Rectangle:
    """Sides in pixels, y downwards."""

    left: float
    right: float
    top: float
    bottom: float

    @property
    def height(self) -> float:
        return self.bottom - self.top


Piece = TypeVar("Piece", bound=Rectangle)


def in_columns(pieces: Sequence[Piece], is_monospaced: bool) -> list[list[Piece]]:
    """Blocks in reading order: what stands above columns, each column, what follows below them.

    The cuts of Nagy and Seth's XY tree (1984), the longest vertical one first: a heading over two columns ends it.
    """
    ordered = sorted(pieces, key=lambda each: each.top)
    cuts = [cut for cut in _cuts(ordered) if _are_columns(cut, is_monospaced)]
    if not cuts:
        return [ordered] if ordered else []
    best = max(cuts, key=lambda cut: len(cut.left) + len(cut.right))
    parts = best.above, best.left, best.right, best.below
    return [block for part in parts for block in in_columns(part, is_monospaced)]


def in_lines(block: Sequence[Piece]) -> list[list[Piece]]:
    """From top to bottom, each from left to right."""
    lines: list[list[Piece]] = []
    for each in sorted(block, key=lambda each: each.top + each.bottom):
        if lines and _are_on_one_line(lines[-1][-1], each):
            lines[-1].append(each)
        else:
            lines.append([each])
    return [sorted(line, key=lambda each: each.left) for line in lines]


def _are_on_one_line(one: Rectangle, other: Rectangle) -> bool:
    overlap = min(one.bottom, other.bottom) - max(one.top, other.top)
    return overlap > _SAME_LINE * min(one.height, other.height)


@dataclass(frozen=True)
class _Cut(Generic[Piece]):
    above: list[Piece]
    left: list[Piece]
    right: list[Piece]
    below: list[Piece]


def _cuts(ordered: Sequence[Piece]) -> Iterator[_Cut[Piece]]:
    """Each place between two neighbours on a line, from the last piece that crosses it to the next."""
    for place in sorted(_places(ordered)):
        begin = 0
        crossing = [index for index, each in enumerate(ordered) if each.left < place < each.right]
        for end in (*crossing, len(ordered)):
            run = ordered[begin:end]
            left = [each for each in run if each.right <= place]
            right = [each for each in run if each.left >= place]
            if min(len(left), len(right)) >= _LEAST_LINES:
                yield _Cut(list(ordered[:begin]), left, right, list(ordered[end:]))
            begin = end + 1


def _places(ordered: Sequence[Piece]) -> set[float]:
    """Where a corridor may be: one stands for all that are nearer to it than half a line's height."""
    height = median(each.height for each in ordered) if ordered else 1.0
    places: dict[int, float] = {}
    for index, each in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if other.top > (each.top + each.bottom) / 2:
                break
            first, second = sorted((each, other), key=lambda one: one.left)
            if second.left - first.right >= _CORRIDOR * height:
                place = (first.right + second.left) / 2
                places.setdefault(round(place / height * 2), place)
    return set(places.values())


def _are_columns(cut: _Cut[Piece], is_monospaced: bool) -> bool:
    """Whether both sides are full lines, and apart."""
    left, right = in_lines(cut.left), in_lines(cut.right)
    height = median(each.height for each in (*cut.left, *cut.right))
    if min(each.left for each in cut.right) - max(each.right for each in cut.left) < _CORRIDOR * height:
        return False
    least = (_LEAST_WIDTH_MONOSPACED if is_monospaced else _LEAST_WIDTH) * height
    return all(len(side) >= _LEAST_LINES and _are_full(side, least) for side in (left, right))


def _are_full(lines: Sequence[Sequence[Piece]], least_width: float) -> bool:
    lefts, rights = [line[0].left for line in lines], [max(each.right for each in line) for line in lines]
    width = max(rights) - min(lefts)
    usual = median(right - left for left, right in zip(lefts, rights, strict=True))
    return width >= least_width and usual >= _FULL * width
