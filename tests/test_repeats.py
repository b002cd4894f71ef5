"""Near duplicates by MinHash, and the root that stands for a set: equal to plain references and to definitions."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from lib.merkle import merkle_root
from lib.minhash import SHINGLE_WORDS, min_hashes, signatures, similarity, word_hashes
from lib.repeats import append_signatures, read_signatures, repeats

WORDS = [f"word{number}" for number in range(5000)]
texts = st.lists(
    st.lists(st.sampled_from("ab cd ef 日本 ß".split()), max_size=12).map(" ".join), min_size=1, max_size=6
)


def a_text(seed: int, words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def changed(text: str, places: int) -> str:
    """The same with single words replaced, evenly spread: each costs five shingles."""
    words = text.split()
    for place in range(places):
        words[(2 * place + 1) * len(words) // (2 * places)] = f"other{place}"
    return " ".join(words)


def jaccard(one: str, other: str) -> float:
    first, second = (
        {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}
        for words in (one.split(), other.split())
    )
    return len(first & second) / len(first | second)


def plain_shingles(text: str) -> list[int]:
    """The definition, in integers of any size."""
    words, hashes = [int(value) for value in word_hashes(text)], []
    for begin in range(len(words) - SHINGLE_WORDS + 1):
        combined = 0
        for word in words[begin : begin + SHINGLE_WORDS]:
            combined = (combined * 0x9E3779B97F4A7C15 + word) % 2**64
        combined = (combined ^ (combined >> 32)) * 0xD6E8FEB86659FD93 % 2**64
        hashes.append(combined >> 32)
    return hashes


@given(texts)
def test_many_texts_at_once_have_the_values_of_datasketch(texts: list[str]) -> None:
    ours = min_hashes([word_hashes(text) for text in texts])
    for text, values in zip(texts, ours, strict=True):
        reference = MinHash(128, seed=1, hashfunc=lambda value: value)
        reference.update_batch(plain_shingles(text))
        assert values.tolist() == reference.hashvalues.tolist()


@given(texts)
def test_a_signature_does_not_depend_on_the_company(texts: list[str]) -> None:
    together = signatures(texts)
    assert [row.tolist() for row in together] == [signatures([text])[0].tolist() for text in texts]


def test_case_and_white_space_do_not_count_and_text_without_spaces_is_compared_by_characters() -> None:
    one, two = signatures(["Read the LINES\nof a file", "read  the lines of a file "])
    assert similarity(one, two) == 1
    source = random.Random(1)
    chinese = "".join(chr(0x4E00 + source.randrange(5000)) for _ in range(400))
    one, two, other = signatures([chinese, chinese[:200] + "人" + chinese[201:], chinese[::-1]])
    assert similarity(one, two) > 0.9
    assert similarity(one, other) < 0.1


def test_the_estimate_is_near_the_truth() -> None:
    for places in (1, 4, 10):
        pairs = [(text := a_text(seed), changed(text, places)) for seed in range(50)]
        estimates = [similarity(*signatures(pair)) for pair in pairs]
        assert np.mean(estimates) == pytest.approx(np.mean([jaccard(*pair) for pair in pairs]), abs=0.02)


@pytest.mark.parametrize(("places", "least", "most"), [(2, 0.99, 1.0), (3, 0.85, 1.0), (10, 0.0, 0.0)])
def test_near_duplicates_are_found_and_others_are_not(tmp_path: Path, places: int, least: float, most: float) -> None:
    originals = [a_text(seed) for seed in range(100)]
    append_signatures(tmp_path / "earlier", signatures(originals))
    found = repeats(signatures([changed(text, places) for text in originals]), [tmp_path / "earlier"])
    assert least <= found.mean() <= most


@given(st.lists(st.sampled_from([a_text(seed, 30) for seed in range(4)]), max_size=8), st.data())
def test_it_does_not_matter_where_the_earlier_ones_are(texts: list[str], data: st.DataObject) -> None:
    """In the same row, in one file or in several."""
    whole = repeats(signatures(texts), [])
    assert [bool(value) for value in whole] == [text in texts[:index] for index, text in enumerate(texts)]
    first, second = sorted(data.draw(st.lists(st.integers(0, len(texts)), min_size=2, max_size=2)))
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / "a", Path(name) / "b"]
        append_signatures(files[0], signatures(texts[:first]))
        append_signatures(files[1], signatures(texts[first:second]))
        assert len(read_signatures(files[0])) == first
        assert repeats(signatures(texts[second:]), files).tolist() == whole[second:].tolist()


def test_thousands_made_from_one_template_cost_no_square() -> None:
    """Alike in every second shingle: each band is shared by hundreds, and few of them are compared."""
    template = a_text(0, 60)
    found = repeats(signatures([f"{template} {a_text(seed, 40)}" for seed in range(1, 3000)]), [])
    assert found.mean() < 0.01


hashes = st.sets(st.binary(min_size=32, max_size=32), max_size=20)


@given(hashes, hashes)
def test_equal_sets_have_equal_roots_and_others_others(one: set[bytes], other: set[bytes]) -> None:
    assert (merkle_root(sorted(one)) == merkle_root(sorted(other))) == (one == other)


@given(hashes)
def test_the_root_is_the_one_of_rfc_6962(leaves: set[bytes]) -> None:
    def plain(some: list[bytes]) -> bytes:
        if len(some) < 2:
            return hashlib.sha256(b"\0" + some[0]).digest() if some else hashlib.sha256(b"").digest()
        split = 1
        while 2 * split < len(some):
            split *= 2
        return hashlib.sha256(b"\1" + plain(some[:split]) + plain(some[split:])).digest()

    assert merkle_root(sorted(leaves)) == plain(sorted(leaves)).hex()


def test_a_broken_order_is_told() -> None:
    with pytest.raises(ValueError, match="ascending"):
        merkle_root([b"b", b"a"])
