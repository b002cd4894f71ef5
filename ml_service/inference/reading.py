"""What was read in a picture: its lines with their places, and the text that they make in reading order."""

from __future__ import annotations

from dataclasses import dataclass

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
