"""Images and what stands in them: what was read beside the target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.memory import give_back_freed_pages
from ml_service.common.errors import ModelFailure
from ml_service.inference.image import TextReader
from ml_service.pipeline.judging.judged import Cell, Judged, Metric, Sums, cell_of
from ml_service.pipeline.judging.likeness import likeness, likeness_of_corpus
from ml_service.pipeline.judging.tables import Archive, Row


class ReadingTask:
    """A picture in which nothing can be read counts as an empty reading: it is the reader that is judged."""

    columns = ("target", "read", "confidence", "exact_match", "cer", "wer")

    def __init__(
        self, reader: TextReader, archive: Archive, image: str, target: str, max_pixels: int, scratch: Path
    ) -> None:
        self._reader, self._archive, self._image, self._target = reader, archive, image, target
        self._max_pixels, self._scratch = max_pixels, scratch
        self._sums = Sums(likeness_of_corpus)
        self._pool = ThreadPoolExecutor(1, "reading")  # a picture at a time: it uses all threads by itself

    async def judge(self, row: Row) -> Judged:
        """Raises BadRequest, TooLarge in words where the image is missing or none."""
        name, target = cell_of(row, self._image, "name"), row.cells.get(self._target, "")
        text, confidence = await asyncio.get_running_loop().run_in_executor(self._pool, self._read, name)
        cells, sums, error_rate = likeness(target, text)
        own: dict[str, Cell] = {"target": target, "read": text, "confidence": round(confidence, 4)}
        return Judged(own | cells, sums, error_rate)

    def add(self, judged: Judged) -> None:
        """Count a row in."""
        self._sums.add(judged)

    def metrics(self, wanted: Callable[[str], bool]) -> dict[str, Metric]:
        """Of the corpus."""
        return self._sums.metrics(wanted)

    def _read(self, name: str) -> tuple[str, float]:
        image = self._archive.image(name, self._scratch / "image")
        try:
            reading = self._reader.read(image, self._max_pixels)
        except ModelFailure:
            return "", 0.0
        finally:
            give_back_freed_pages()
        return reading.text, min((line.confidence for line in reading.lines), default=0.0)
