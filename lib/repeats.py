"""Texts that repeat an earlier one, by their MinHash signatures: joined band by band, then compared; flat in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lib.minhash import SIGNATURE_BYTES, Signatures, similarity

THRESHOLD = 0.8
"""Of the estimate. So 94 of 100 texts with a Jaccard index of 0.85 are found, all with 0.9, and 1 of 100 with 0.7."""
_BAND_BYTES = 8
_BANDS = SIGNATURE_BYTES // _BAND_BYTES
_COMPARED_PER_BAND = 4
"""Of the texts that share a band, so many are compared: thousands made from one template would cost their square."""
_TABLE_BITS = 22
_PAIRS_AT_ONCE = 1 << 16

Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]


def repeats(signatures: Signatures, earlier: Iterable[Path]) -> Mask:
    """Which texts repeat one of `earlier` (files as `append_signatures` writes them) or one before them in their row.

    The files are read one after the other and never held together. What is not covered: a text among very many that
    share each of its bands with it, and a text that holds another as a small part of it.
    """
    repeated = np.zeros(len(signatures), np.bool_)
    for path in earlier:
        left = np.flatnonzero(~repeated)
        repeated[left] = _repeats_of(signatures[left], read_signatures(path))
    return _with_repeats_among(signatures, repeated)


def append_signatures(path: Path, signatures: Signatures) -> None:
    """Add to a file: 128 bytes a text, nothing else."""
    with path.open("ab") as file:
        signatures.tofile(file)


def read_signatures(path: Path) -> Signatures:
    """All of a file, shape (texts, 128)."""
    return np.fromfile(path, np.uint8).reshape(-1, SIGNATURE_BYTES)


def _repeats_of(signatures: Signatures, earlier: Signatures) -> Mask:
    own, theirs = _band_keys(signatures).ravel(), _band_keys(earlier).ravel()
    order = np.argsort(own)
    ours, ordered = _pairs(own[order], theirs)
    repeated = np.zeros(len(signatures), np.bool_)
    rows, earlier_rows = order[ordered] // _BANDS, ours // _BANDS
    for begin in range(0, len(rows), _PAIRS_AT_ONCE):
        some, others = rows[begin : begin + _PAIRS_AT_ONCE], earlier_rows[begin : begin + _PAIRS_AT_ONCE]
        repeated[some[similarity(signatures[some], earlier[others]) >= THRESHOLD]] = True
    return repeated


def _pairs(ordered: Keys, theirs: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(index in `theirs`, index in `ordered`) of equal keys, of each key its first few in `theirs`."""
    # Nearly no key is ours: a table of 4 MiB says so in a few nanoseconds, a search would take a hundred.
    table = np.zeros(1 << _TABLE_BITS, np.bool_)
    table[_places(ordered)] = True
    hits = np.flatnonzero(table[_places(theirs)])
    first, last = (np.searchsorted(ordered, theirs[hits], side) for side in ("left", "right"))
    hits, first, last = (values[last > first] for values in (hits, first, last))
    by_key = np.argsort(first, kind="stable")
    hits, first, last = hits[by_key], first[by_key], last[by_key]
    rank = np.arange(len(first)) - np.searchsorted(first, first)
    hits, first, last = (values[rank < _COMPARED_PER_BAND] for values in (hits, first, last))
    counts = last - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(hits, counts), np.repeat(first, counts) + within


def _with_repeats_among(signatures: Signatures, repeated: Mask) -> Mask:
    """The same, and those that repeat one before them which is kept."""
    repeated = repeated.copy()
    kept: defaultdict[int, list[int]] = defaultdict(list)
    for row, keys in enumerate(_band_keys(signatures).tolist()):
        if repeated[row]:
            continue
        candidates = {other for key in keys if key in kept for other in kept[key]}
        if candidates and similarity(signatures[sorted(candidates)], signatures[row]).max() >= THRESHOLD:
            repeated[row] = True
            continue
        for key in keys:
            if len(kept[key]) < _COMPARED_PER_BAND:
                kept[key].append(row)
    return repeated


def _band_keys(signatures: Signatures) -> Keys:
    """Eight bytes of a signature are a key; which eight they are goes into it."""
    bands = np.ascontiguousarray(signatures).view(np.uint64)
    return bands + np.arange(_BANDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _places(keys: Keys) -> npt.NDArray[np.intp]:
    mixed = keys * np.uint64(0xD6E8FEB86659FD93)
    return (mixed >> np.uint64(64 - _TABLE_BITS)).astype(np.intp)
