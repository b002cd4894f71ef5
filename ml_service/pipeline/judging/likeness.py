"""How like a text is to the one that was wanted: its cells in a table of results, and what is added up over rows."""

from __future__ import annotations

from typing import NamedTuple

from lib.bootstrap import Floats
from lib.text_scores import character_edits, word_edits
from ml_service.pipeline.judging.judged import Cell, shares

SUMS = 6
"""How many of the sums are these."""


class Likeness(NamedTuple):
    """Of one text."""

    cells: dict[str, Cell]
    sums: tuple[float, ...]
    error_rate: float
    """Wrong characters for each that was wanted."""


def likeness(wanted: str, got: str) -> Likeness:
    """White space around a text does not count for an exact match."""
    characters, words = character_edits(wanted, got), word_edits(wanted, got)
    is_match = got.strip() == wanted.strip()
    cells: dict[str, Cell] = {
        "exact_match": int(is_match), "cer": round(characters.rate, 5), "wer": round(words.rate, 5),
    }  # fmt: skip
    return Likeness(cells, (1.0, is_match, *characters, *words), characters.rate)


def likeness_of_corpus(sums: Floats) -> dict[str, Floats]:
    """From the first columns of sums, shape (resamples, columns), to figures, shape (resamples,)."""
    rows, matches, edits, length, words_wrong, words = sums.T[:SUMS]
    return {"exact_match": shares(matches, rows), "cer": shares(edits, length), "wer": shares(words_wrong, words)}
