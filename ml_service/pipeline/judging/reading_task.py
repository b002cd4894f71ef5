"""Images and what stands in them: what was read beside the target."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lib.bootstrap import Floats
from lib.memory import give_back_freed_pages
from lib.text_scores import character_edits, word_edits
from ml_service.common.errors import BadRequest, ModelFailure
from ml_service.inference.image import TextReader
from ml_service.pipeline.judging.judged import Cell, Judged, Metric, ratios, shares
from ml_service.pipeline.judging.tables import Archive, Row

_SUMS = 6


class ReadingTask:
    """A picture in which nothing can be read counts as an empty reading: it is the reader that is judged."""

    columns = ("target", "read", "confidence", "exact_match", "cer", "wer")

    def __init__(
        self, reader: TextReader, archive: Archive, image: str, target: str, max_pixels: int, scratch: Path
    ) -> None:
        self._reader, self._archive, self._image, self._target = reader, archive, image, target
        self._max_pixels, self._scratch = max_pixels, scratch
        self._rows = array("d")
        self._pool = ThreadPoolExecutor(1, "reading")  # a picture at a time: it uses all threads by itself

    async def judge(self, row: Row) -> Judged:
        """Raises BadRequest, TooLarge in words where the image is missing or none."""
        name, target = row.cells.get(self._image), row.cells.get(self._target, "")
        if name is None:
            raise BadRequest(f"no name in column {self._image!r}")
        text, confidence = await asyncio.get_running_loop().run_in_executor(self._pool, self._read, name)
        characters, words = character_edits(target, text), word_edits(target, text)
        is_match = text.strip() == target.strip()
        cells: dict[str, Cell] = {
            "target": target, "read": text, "confidence": round(confidence, 4), "exact_match": int(is_match),
            "cer": round(characters.rate, 5), "wer": round(words.rate, 5),
        }  # fmt: skip
        return Judged(cells, (1.0, is_match, *characters, *words), characters.rate)

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        self._rows.extend(judged.sums)

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Of the corpus."""
        found = ratios(np.frombuffer(self._rows).reshape(-1, _SUMS), _statistics)
        return {name: figure for name, figure in found.items() if wanted(name)}

    def _read(self, name: str) -> tuple[str, float]:
        image = self._archive.image(name, self._scratch / "image")
        try:
            reading = self._reader.read(image, self._max_pixels)
        except ModelFailure:
            return "", 0.0
        finally:
            give_back_freed_pages()
        return reading.text, min((line.confidence for line in reading.lines), default=0.0)


def _statistics(sums: Floats) -> Mapping[str, Floats]:
    rows, matches, edits, length, words_wrong, words = sums.T
    return {"exact_match": shares(matches, rows), "cer": shares(edits, length), "wer": shares(words_wrong, words)}
