"""How near a text is to the one that was wanted: edits, overlaps, in the field's own implementations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

_WORD = re.compile(r"\w+")


class Edits(NamedTuple):
    """Substitutions, deletions and insertions, and the length of what was wanted."""

    edits: int
    length: int

    @property
    def rate(self) -> float:
        """Edits a unit of what was wanted; of nothing, how much too much there is."""
        return self.edits / max(self.length, 1)


class Figure(NamedTuple):
    """A score of a corpus and its 95 % interval."""

    value: float
    low: float
    high: float


def character_edits(wanted: str, got: str) -> Edits:
    """As jiwer counts them for CER."""
    import jiwer

    return _edits(jiwer.process_characters, wanted, got)


def word_edits(wanted: str, got: str) -> Edits:
    """As jiwer counts them for WER; words end at any white space: jiwer alone does not split at the end of a line."""
    import jiwer

    return _edits(jiwer.process_words, " ".join(wanted.split()), " ".join(got.split()))


def rouge_l(wanted: str, got: str) -> float:
    """The F measure of the longest common subsequence of words (Lin 2004), words of any script, 0 to 1."""
    return float(_rouge_scorer().score(wanted, got)["rougeL"].fmeasure)


def chrf(wanted: Sequence[str], got: Sequence[str], resamples: int) -> Figure:
    """chrF2 of a corpus by sacrebleu, 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return _of_sacrebleu(CHRF(), wanted, got, resamples)


def bleu(wanted: Sequence[str], got: Sequence[str], resamples: int) -> Figure:
    """BLEU of a corpus by sacrebleu, 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    return _of_sacrebleu(BLEU(), wanted, got, resamples)


def _edits(process: Any, wanted: str, got: str) -> Edits:
    if not wanted.strip():
        return Edits(len(got.split() if process.__name__ == "process_words" else got.strip()), 0)
    found = process(wanted, got)
    wrong = found.substitutions + found.deletions
    return Edits(wrong + found.insertions, wrong + found.hits)


def _of_sacrebleu(metric: Any, wanted: Sequence[str], got: Sequence[str], resamples: int) -> Figure:
    score = metric.corpus_score(list(got), [list(wanted)], n_bootstrap=resamples)
    # Its interval is symmetric; the score ends at 0 and 100.
    return Figure(score.score, max(score._mean - score._ci, 0.0), min(score._mean + score._ci, 100.0))


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    """The default tokenizer of rouge-score drops whatever is not a-z."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-case words."""
        return _WORD.findall(text.lower())
