"""Where text stands in a picture: the network's map of it, tile by tile, and the turned rectangles in the map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nlargest
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]
TILE_PIXELS = 500_000
"""The network takes about 240 bytes for each pixel that it sees at once."""
_OVERLAP = 96
_STEP = 32
"""The network halves a picture five times: its sides are multiples of this."""
_INK = 0.3
_MIN_SCORE = 0.5
_MIN_SIDE = 3
_GROWTH = 1.6
"""The map has the inner part of a line; area / circumference times this is what the line is wider, on each side."""
MAX_BOXES = 1000


def text_boxes(picture: Array, network: Callable[[Array], Array]) -> list[Array]:
    """Corners of each line of text (4, 2), clockwise from its upper left; `picture` is (height, width, 3), 8 bit.

    `network` takes 1, 3, height, width and gives 1, 1, height, width: how likely a pixel is the inner part of a
    line (DB, arXiv:1911.08947).
    """
    likely = np.zeros(picture.shape[:2], np.uint8)
    for top, bottom, left, right in tiles(*picture.shape[:2]):
        tile = _likely_in(picture[top:bottom, left:right], network)
        np.maximum(likely[top:bottom, left:right], tile, out=likely[top:bottom, left:right])
    surest = nlargest(MAX_BOXES, _boxes_in(likely), key=lambda found: found[0])
    return [box for _, box in surest]


def tiles(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, bottom, left, right of overlapping pieces; as wide as can be, as lines are."""
    columns = _spans(width, TILE_PIXELS // 384)
    widest = max(right - left for left, right in columns)
    for top, bottom in _spans(height, max(TILE_PIXELS // widest, 384)):
        for left, right in columns:
            yield top, bottom, left, right


def _spans(length: int, longest: int) -> list[tuple[int, int]]:
    if length <= longest:
        return [(0, length)]
    count = -(-(length - _OVERLAP) // (longest - _OVERLAP))
    size = -(-(length + (count - 1) * _OVERLAP) // count)
    starts = [min(index * (size - _OVERLAP), length - size) for index in range(count)]
    return [(start, start + size) for start in starts]


def _likely_in(tile: Array, network: Callable[[Array], Array]) -> Array:
    """0 to 255 for each pixel."""
    height, width = tile.shape[:2]
    below, right = -height % _STEP, -width % _STEP
    padded = cv2.copyMakeBorder(tile, 0, below, 0, right, cv2.BORDER_REPLICATE)
    planes = np.ascontiguousarray(padded[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)  # blue, green, red
    planes *= 2 / 255
    planes -= 1
    likely = (network(planes)[0, 0, :height, :width] * 255).astype(np.uint8)
    # Of an even ground the network says that all of it may be text, a little.
    return likely if likely.max() >= _MIN_SCORE * 255 else np.zeros_like(likely)


def _boxes_in(likely: Array) -> Iterator[tuple[float, Array]]:
    """How sure the network is of each, and its corners."""
    mask = cv2.threshold(likely, _INK * 255, 1, cv2.THRESH_BINARY)[1]
    cv2.dilate(mask, np.ones((2, 2), np.uint8), dst=mask)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        (x, y), (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < _MIN_SIDE:
            continue
        score = _mean_within(likely, contour) / 255
        if score >= _MIN_SCORE:
            growth = _GROWTH * width * height / (width + height)  # on both sides together
            yield score, _clockwise(cv2.boxPoints(((x, y), (width + growth, height + growth), angle)))


def _mean_within(likely: Array, contour: Array) -> float:
    left, top, width, height = cv2.boundingRect(contour)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [contour - (left, top)], 1)
    return float(cv2.mean(likely[top : top + height, left : left + width], mask)[0])


def _clockwise(corners: Array) -> Array:
    """From the upper left corner, of the two on the left."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (side[np.argsort(side[:, 1], kind="stable")] for side in (by_x[:2], by_x[2:]))
    return np.array([left[0], right[0], right[1], left[1]], np.float32)
