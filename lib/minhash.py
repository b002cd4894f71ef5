"""MinHash signatures of texts: over shingles of five words, a byte for each of 128 permutations."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

SIGNATURE_BYTES = 128
SHINGLE_WORDS = 5
SEED = 1
_LONGEST_MEAN_WORD_BYTES = 24
"""Text with longer "words" has none (Chinese, base64, minified code): its characters stand for them."""
_GROUP_WORDS = 1 << 18
"""So many words at once fit the second-level cache with all that is made of them."""
_MULTIPLIER, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)

Signatures = npt.NDArray[np.uint8]
"""Shape (texts, 128)."""


def signatures(texts: Sequence[str]) -> Signatures:
    """The signature of each text, shape (texts, 128).

    The 32-bit values are those of datasketch's MinHash (scheme affine32) over the same shingles, many texts at once and
    without its import of scipy; of each a byte is kept, enough to compare (b-bit minwise hashing, Li and König 2010).
    """
    groups = [_smallest_byte(min_hashes(words)) for words in _groups(texts)]
    return np.concatenate([np.empty((0, SIGNATURE_BYTES), np.uint8), *groups])


def similarity(one: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """The Jaccard index of the shingles' sets, estimated row by row; its standard deviation is at most 0.045."""
    equal = np.count_nonzero(one == other, axis=-1) / SIGNATURE_BYTES
    return np.asarray((equal - 1 / 256) / (1 - 1 / 256))  # one in 256 bytes is equal by chance


def min_hashes(words: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.uint32]:
    """The least value of each permutation over each text's shingles, shape (texts, 128)."""
    hashes, starts = shingle_hashes(words)
    least = np.empty((len(words), SIGNATURE_BYTES), np.uint32)
    permuted = np.empty_like(hashes)
    for index, (factor, summand) in enumerate(zip(*_permutations(), strict=True)):
        np.multiply(hashes, factor, out=permuted)
        permuted += summand
        least[:, index] = np.minimum.reduceat(permuted, starts)
    return least


def shingle_hashes(
    words: Sequence[npt.NDArray[np.uint32]],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp]]:
    """The mixed hashes of all texts' shingles, and where each text's begin. Each text has at least five words."""
    ends = np.cumsum([len(own) for own in words])
    starts = np.concatenate([np.zeros(1, np.intp), ends[:-1]])
    flat = np.concatenate([*words, np.zeros(SHINGLE_WORDS, np.uint32)]).astype(np.uint64)
    combined = np.zeros(ends[-1], np.uint64)
    for offset in range(SHINGLE_WORDS):
        combined *= _MULTIPLIER
        combined += flat[offset : offset + len(combined)]
    # Shingles that reach into the next text are overwritten with the text's first one: a minimum does not mind.
    reaching = (ends[:, None] - np.arange(1, SHINGLE_WORDS)).ravel()
    combined[reaching] = np.repeat(combined[starts], SHINGLE_WORDS - 1)
    combined ^= combined >> np.uint64(32)
    combined *= _MIX
    return _mixed((combined >> np.uint64(32)).astype(np.uint32)), starts


def word_hashes(text: str) -> npt.NDArray[np.uint32]:
    """A number for each word, in order and without regard to case; padded with zeros to a shingle."""
    plain = unicodedata.normalize("NFC", text).lower()
    raw = plain.encode()
    parts = raw.split()
    if len(raw) > _LONGEST_MEAN_WORD_BYTES * max(len(parts), 1):
        hashes = np.frombuffer("".join(plain.split()).encode("utf-32-le"), np.uint32)
    else:
        hashes = np.fromiter(map(zlib.crc32, parts), np.uint32, len(parts))
    return np.pad(hashes, (0, SHINGLE_WORDS - len(hashes))) if len(hashes) < SHINGLE_WORDS else hashes


def _groups(texts: Sequence[str]) -> Iterator[list[npt.NDArray[np.uint32]]]:
    group: list[npt.NDArray[np.uint32]] = []
    size = 0
    for text in texts:
        words = word_hashes(text)
        if group and size + len(words) > _GROUP_WORDS:
            yield group
            group, size = [], 0
        group.append(words)
        size += len(words)
    if group:
        yield group


def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Factors and summands, drawn as datasketch draws them. They may never change: signatures are stored."""
    generator = np.random.RandomState(SEED)
    factors = generator.randint(0, 1 << 31, SIGNATURE_BYTES, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, generator.randint(0, 1 << 32, SIGNATURE_BYTES, dtype=np.uint32)


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's finalizer, a bijection."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def _smallest_byte(least: npt.NDArray[np.uint32]) -> Signatures:
    """A byte of each; mixed before, or two shingles that agree in a byte would agree in it under all permutations."""
    return (_mixed(least) >> np.uint32(24)).astype(np.uint8)
