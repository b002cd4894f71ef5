"""Text in pictures, read by the models that lie in rapidocr's wheel; no other module knows where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from ml_service.common.errors import BundleRefused, ModelFailure
from ml_service.inference.pictures import open_picture
from ml_service.inference.reading import Reading, ReadLine
from ml_service.inference.reading_order import Piece, read_in_order
from ml_service.inference.text_boxes import MAX_BOXES, text_boxes

Array = np.ndarray[Any, Any]
_DETECTOR = "PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"
_RECOGNISER = "PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
_ENOUGH_SIDE, _ENOUGH_PIXELS = 2000, 16_000_000
"""Of the shorter side, a page of A4 in 240 dpi, and of all. Most long screenshots keep their size."""
_MOST_THREADS = 4
"""Networks as small as these gain nothing from more."""
_LINE_HEIGHT = 48
_MAX_LINE_WIDTH = 4800
"""The recogniser gives 18,710 probabilities for each 8 pixels of a line: 45 MB for this."""
_MIN_LINE_WIDTH = 16
_UPRIGHT_LETTER, _TURNED_LINE = 1.5, 3.0
"""Height to width: up to the first it is read as it stands, from the second on its side, between them both ways."""
_MIN_CONFIDENCE = 0.7
_LONGEST_GAP = 1.8
"""Of a line's height: where characters of one box are further apart, something between them was not read."""


def open_text_reader(threads: int, folder: Path | None = None) -> TextReader:
    """Open the models; blocks for a quarter of a second.

    Raises BundleRefused where one of them is missing or is not the one that was tested.
    """
    folder = folder or _models_folder()
    cv2.setNumThreads(1)  # a line is too small to be shared
    return TextReader(*(_open(folder, *model, threads) for model in (_DETECTOR, _RECOGNISER)))


def _models_folder() -> Path:
    """In the installed package, which is not imported: that takes a second, 40 MB and knows how to download."""
    spec = find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise BundleRefused("rapidocr is not installed, and the models that read images lie in it")
    return Path(spec.origin).parent / "models"


def _open(folder: Path, name: str, sha256: str, threads: int) -> onnxruntime.InferenceSession:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BundleRefused(f"the model {name}, which reads images, is missing or cannot be read") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleRefused(f"the model {name}, which reads images, is not the one that was tested: its hash differs")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = min(threads, _MOST_THREADS), 3
    # Each line has another width: an arena, and patterns of memory kept for each width, grow to 1.2 GB in 40 pictures.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class TextReader:
    """The models, opened; one thread reads."""

    def __init__(self, detector: onnxruntime.InferenceSession, recogniser: onnxruntime.InferenceSession) -> None:
        self._detector, self._recogniser = detector, recogniser
        # CTC: nothing first, a space last.
        self._characters = ["", *recogniser.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]

    def read(self, image: bytes, max_pixels: int) -> Reading:
        """The lines of a picture and their text; blocks.

        Raises BadRequest where it is no picture or a broken one, TooLarge where it has more than `max_pixels`,
        ModelFailure where nothing in it can be read.
        """
        picture = open_picture(image, max_pixels, _ENOUGH_SIDE, _ENOUGH_PIXELS)
        pixels, scale = np.asarray(picture.pixels), picture.scale
        size = picture.width, picture.height
        del picture  # large ones are not kept twice
        boxes = text_boxes(pixels, self._detect)
        pieces = [piece for box in boxes if (piece := self._read_line(pixels, box, scale)) is not None]
        if not pieces:
            raise ModelFailure(_nothing(len(boxes)))
        text, lines = read_in_order(pieces)
        return Reading(text, lines, *size)

    def _detect(self, planes: Array) -> Array:
        likely: Array = self._detector.run(None, {"x": planes})[0]
        return likely

    def _read_line(self, pixels: Array, box: Array, scale: float) -> Piece | None:
        """What stands in a box; None where that is not clear. The piece's box is one of the original picture."""
        width, height = _sides(box)
        ways = [_cut_out(pixels, box)] if height < _TURNED_LINE * width else []
        if height >= _UPRIGHT_LETTER * width:
            ways.append(_cut_out(pixels, np.roll(box, -1, axis=0)))
        text, confidence, places = max((self._recognise(way) for way in ways), key=lambda read: read[1])
        confidence *= _share_read(text, places, max(width, height) / min(width, height))
        if confidence < _MIN_CONFIDENCE or not text.strip():
            return None
        pitch = (places[-1] - places[0]) / (len(places) - 1) * max(width, height) / scale if len(places) > 1 else 0.0
        corners = tuple((float(x) / scale, float(y) / scale) for x, y in box)
        assert len(corners) == 4, "a box has four corners"
        return Piece(ReadLine(text.strip(), confidence, corners), pitch)

    def _recognise(self, line: Array) -> tuple[str, float, Sequence[float]]:
        """A line's text, how sure it is, and where each character stands, 0 to 1."""
        planes = np.ascontiguousarray(line[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)  # blue, green, red
        planes *= 2 / 255
        planes -= 1
        likely = self._recogniser.run(None, {"x": planes})[0][0]
        best = likely.argmax(axis=1)
        # CTC: what is repeated without a nothing between is one character.
        places = [at for at, (before, now) in enumerate(pairwise((0, *best.tolist()))) if now not in (0, before)]
        if not places:
            return "", 0.0, ()
        text = "".join(self._characters[best[at]] for at in places)
        return text, float(likely[places, best[places]].mean()), [(at + 0.5) / len(best) for at in places]


def _share_read(text: str, places: Sequence[float], length: float) -> float:
    """Of a line so many times as long as it is high: of letters that are not known nothing is read but the gap."""
    read = [place for place, character in zip(places, text, strict=True) if not character.isspace()]
    gaps = (after - before for before, after in pairwise((0.0, *read, 1.0)))
    unread = sum(gap for gap in gaps if gap * length > _LONGEST_GAP)
    return 1 - unread


def _sides(box: Array) -> tuple[float, float]:
    width, height = np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[3] - box[0])
    return max(float(width), 1.0), max(float(height), 1.0)


def _cut_out(pixels: Array, box: Array) -> Array:
    """The box alone, as high as the recogniser wants it."""
    width, height = _sides(box)
    size = int(np.clip(round(width * _LINE_HEIGHT / height), _MIN_LINE_WIDTH, _MAX_LINE_WIDTH)), _LINE_HEIGHT
    # A warp takes points, not areas: large letters are cut out first and then made smaller.
    first = (max(round(width), 1), max(round(height), 1)) if height > 2 * _LINE_HEIGHT else size
    corners = np.array([[0, 0], [first[0], 0], first, [0, first[1]]], np.float32)
    turn = cv2.getPerspectiveTransform(box.astype(np.float32), corners)
    line = cv2.warpPerspective(pixels, turn, first, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return line if first == size else cv2.resize(line, size, interpolation=cv2.INTER_AREA)


def _nothing(boxes: int) -> str:
    if boxes == 0:
        return "no text was found in the image"
    places = "one place" if boxes == 1 else f"{min(boxes, MAX_BOXES)} places"
    return f"something like text was found in {places} of the image, and none of it could be read with confidence"
