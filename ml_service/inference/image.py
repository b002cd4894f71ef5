"""Text in a picture, read by the OCR models that lie in rapidocr's wheel: the one module that knows that library."""

from __future__ import annotations

from ml_service.inference.reading import Reading


class TextReader:
    """The models, opened."""

    def read(self, image: bytes, max_pixels: int) -> Reading:
        """Read a picture; blocks.

        Raises BadRequest where it is none or broken, TooLarge beyond `max_pixels`, ModelFailure where nothing can be
        read in it.
        """
        raise NotImplementedError


def open_text_reader(threads: int) -> TextReader:
    """Open the models; blocks for about a second. Raises BundleRefused where one is missing or was altered."""
    raise NotImplementedError
