"""The data set on disk: complete or absent, reproducible, memory-mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.corpora import folder
from lib.dataset_builder import BuildOptions, build_dataset
from lib.document_shards import iterate_documents
from lib.packed_windows import BLOCK, FixedWindows, PackedWindows
from lib.token_shards import TOKENIZER_FILE, PackedTokens, load_manifest, load_tokens
from lib.tokenizer import bytes_of_tokens, end_of_text_id, load_tokenizer, train_byte_level_bpe
from tests.conftest import build


def test_packed_tokens_decode_to_the_documents_in_order(dataset: Path) -> None:
    tokenizer = load_tokenizer(dataset / TOKENIZER_FILE)
    end = end_of_text_id(tokenizer)
    for split in ("train", "validation"):
        (part,) = load_tokens(dataset, split)
        assert isinstance(part.tokens, np.memmap)
        pieces = np.split(part.tokens, np.flatnonzero(part.tokens == end) + 1)[:-1]
        texts = [tokenizer.decode(piece[:-1].tolist()) for piece in pieces]
        assert texts == [document.text for document in iterate_documents(dataset, split)]


def test_counts_match_the_files_and_no_document_is_in_both_splits(dataset: Path) -> None:
    manifest = load_manifest(dataset)
    hashes = {split: {d.content_hash for d in iterate_documents(dataset, split)} for split in ("train", "validation")}
    assert not hashes["train"] & hashes["validation"]
    for split, sources in manifest.parts.items():
        for part in load_tokens(dataset, split):
            assert sources[part.source].tokens == len(part.tokens)
            assert sources[part.source].documents == len(hashes[split])


def test_the_same_corpus_gives_the_same_fingerprint_and_another_one_another(corpus: Path, tmp_path: Path) -> None:
    first, second = build(corpus, tmp_path / "a"), build(corpus, tmp_path / "b")
    assert first == second
    other = tmp_path / "code"
    other.mkdir()
    for file in sorted(corpus.iterdir())[1:]:
        (other / file.name).write_bytes(file.read_bytes())
    assert build(other, tmp_path / "c").fingerprint != first.fingerprint


def test_duplicates_and_bad_files_are_counted_and_named(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "code"
    root.mkdir()
    for file in corpus.iterdir():
        (root / file.name).write_bytes(file.read_bytes())
    (root / "twin.py").write_bytes((corpus / "module_000.py").read_bytes())
    (root / "zeros.py").write_bytes(b"\0\0")
    manifest = build(root, tmp_path / "out")
    assert manifest.rejected["duplicate"] == 1
    assert manifest.rejected["binary"] == 1
    log = (tmp_path / "out" / "rejected.jsonl").read_text()
    assert "twin.py" in log
    assert "zeros.py" in log


def test_an_empty_corpus_is_refused_in_words_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "nothing"
    root.mkdir()
    with pytest.raises(ValueError, match="no usable document"):
        build_dataset(lambda: folder(root), tmp_path / "out", BuildOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


def test_a_directory_in_use_is_not_overwritten(corpus: Path, dataset: Path) -> None:
    with pytest.raises(FileExistsError):
        build(corpus, dataset)


def test_every_text_survives_the_tokenizer_and_its_bytes_are_counted() -> None:
    tokenizer = train_byte_level_bpe(["def f(x):\n    return x\n"] * 3, 300)
    sizes = bytes_of_tokens(tokenizer)
    for text in ("def f", "日本 🙂\n\t", "\x01\x02", "naïve", "a <|endoftext|> that is text"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert sum(sizes[i] for i in ids) == len(text.encode())
    assert sizes[end_of_text_id(tokenizer)] == 0
    with pytest.raises(ValueError, match="at least 257"):
        train_byte_level_bpe(["x"], 10)


def parts(**sizes: int) -> list[PackedTokens]:
    return [PackedTokens(name, np.arange(size, dtype=np.uint16)) for name, size in sizes.items()]


def test_a_window_is_a_function_of_its_index_alone() -> None:
    first = PackedWindows(parts(a=1000, b=500), {"a": 0.5, "b": 0.5}, 16, 400, seed=1, end_id=0)
    again = PackedWindows(parts(a=1000, b=500), {"a": 0.5, "b": 0.5}, 16, 400, seed=1, end_id=0)
    order = np.random.default_rng(0).permutation(400)
    expected = [first[i]["input_ids"].tolist() for i in range(400)]
    assert [again[int(i)]["input_ids"].tolist() for i in order] == [expected[i] for i in order]


def test_one_pass_over_a_source_takes_each_window_once_and_labels_are_the_next_tokens() -> None:
    windows = PackedWindows(parts(a=1601), None, 16, 99, seed=3, end_id=0)
    starts = [int(windows[i]["input_ids"][0]) for i in range(99)]
    assert len(set(starts)) == 99
    for i in range(99):
        sample = windows[i]
        assert (sample["next_tokens"] == sample["input_ids"] + 1).all()


def test_sources_come_in_their_shares_and_unknown_ones_are_refused() -> None:
    windows = PackedWindows(parts(a=60000, b=200), {"b": 0.75, "a": 0.25}, 16, 2000, seed=0, end_id=0)
    share = np.mean([int(windows[i]["input_ids"].max()) < 200 for i in range(2000)])
    assert 0.7 < share < 0.8
    with pytest.raises(ValueError, match="no source c"):
        PackedWindows(parts(a=600), {"c": 1.0}, 16, 10, seed=0, end_id=0)
    with pytest.raises(ValueError, match="too few"):
        PackedWindows(parts(a=20), None, 16, 10, seed=0, end_id=0)


def test_every_block_has_the_shares_and_a_window_far_away_costs_nothing() -> None:
    windows = PackedWindows(
        parts(a=60000, b=2000, c=9000), {"a": 0.7, "b": 0.1, "c": 0.2}, 16, 10**12, seed=0, end_id=0
    )
    drawn = [windows._draw(index) for index in range(2 * BLOCK)]
    for source, share in enumerate((0.7, 0.1, 0.2)):
        ranks = [rank for chosen, rank in drawn if chosen == source]
        assert sorted(ranks) == list(range(len(ranks)))
        assert len(ranks) == pytest.approx(2 * BLOCK * share, abs=2)
    assert len(windows[10**12 - 1]["input_ids"]) == 16


def test_validation_windows_are_consecutive_and_bounded() -> None:
    (part,) = parts(a=100)
    assert len(FixedWindows(part, 16, 64, 0)) == 4
    assert len(FixedWindows(part, 16, 10_000, 0)) == 6
    with pytest.raises(ValueError, match="less than"):
        FixedWindows(part, 128, 10_000, 0)
