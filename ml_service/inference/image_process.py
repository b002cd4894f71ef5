"""The process that reads images, `python -m ml_service.inference.image_process SOCKET THREADS`, one after the other."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict

from lib.asked_process import Questions
from lib.frames import Header
from lib.memory import at_most_more, give_back_freed_pages
from ml_service.common.errors import BundleRefused, ModelFailure, ServiceError
from ml_service.inference.drawing import draw
from ml_service.inference.image import TextReader, open_text_reader
from ml_service.inference.reading import reading_of
from ml_service.utils.handing_on import in_child
from ml_service.utils.logs import EventLogger, bound

log = EventLogger("images")
_NICENESS = 10
_MOST_FOR_ONE_BYTES = 330 << 20
"""More than any image takes that is not too large; with the models it makes 500 MB. One made to swell ends here."""


def main() -> None:
    """Answer until the server that started us has gone."""
    questions = Questions(sys.argv[1])
    in_child(traces=False)  # the server's own clock sees how long it takes
    os.nice(_NICENESS)  # requests that are only text stay as fast as they were
    try:
        reader = open_text_reader(int(sys.argv[2]))
    except BundleRefused as error:
        questions.answer(_refusal(error))
        return
    questions.answer({"ready": True})
    with at_most_more(_MOST_FOR_ONE_BYTES):
        while (question := questions.next()) is not None:
            _answer(questions, reader, *question)
            del question  # else it is kept while the next one is read
            give_back_freed_pages()


def _answer(questions: Questions, reader: TextReader, wish: Header, image: bytes) -> None:
    """Bugs are not caught: they end the process, and the server starts another."""
    started = time.perf_counter()
    with bound(**wish.get("for", {})):
        _work(questions, reader, wish, image)
        log.info(f"image.{wish['verb']}", bytes=len(image), seconds=round(time.perf_counter() - started, 3))


def _work(questions: Questions, reader: TextReader, wish: Header, image: bytes) -> None:
    try:
        if wish["verb"] == "draw":
            picture = draw(image, wish["max_pixels"], reading_of(wish["reading"]), wish["continuation"])
            questions.answer({}, picture)
        else:
            questions.answer({"reading": asdict(reader.read(image, wish["max_pixels"]))})
    except ServiceError as error:
        questions.answer(_refusal(error))
    except MemoryError:
        questions.answer(_refusal(ModelFailure("the image takes more memory than there is for one")))


def _refusal(error: ServiceError) -> Header:
    return {"refused": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    main()
