"""What was read in a picture: its lines with their places, and the text that they make in reading order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]
"""x and y in pixels of the upright picture, from its upper left corner."""


@dataclass(frozen=True)
class ReadLine:
    """A piece of text that stands in one place."""

    text: str
    confidence: float
    """How sure the reader is, 0 to 1."""
    box: tuple[Point, Point, Point, Point]
    """Its corners, clockwise from the upper left one of the text itself."""


@dataclass(frozen=True)
class Reading:
    """A picture's text, its pieces in reading order, and the size of the upright picture in pixels."""

    text: str
    lines: tuple[ReadLine, ...]
    width: int
    height: int


def reading_of(content: dict[str, Any]) -> Reading:
    """From JSON, as `dataclasses.asdict` gave it."""
    lines = tuple(ReadLine(line["text"], line["confidence"], _box(line["box"])) for line in content["lines"])
    return Reading(content["text"], lines, content["width"], content["height"])


def _box(corners: list[Any]) -> tuple[Point, Point, Point, Point]:
    first, second, third, fourth = ((float(x), float(y)) for x, y in corners)
    return first, second, third, fourth
