"""The intake: every kind of file, archives that mean harm, duplicates, splits that never move."""

from __future__ import annotations

import json
import random
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.document_shards import iterate_documents
from lib.files import sha256_of_file
from lib.repeats import read_signatures
from lib.text_data import split_of
from ml_service.common.errors import BadRequest, TooLarge
from ml_service.data.database import Database
from ml_service.data.datasets import VALIDATION_SHARE, AddedBatch, Datasets, counts_in
from ml_service.data.schema import migrate
from ml_service.data.tables import Record
from ml_service.data.version_manifest import counts_of, total
from ml_service.pipeline import intake
from ml_service.pipeline.adding import Details, add_files, add_texts
from tests.archives import archive_of

WORDS = [f"word{number}" for number in range(3000)]


def a_text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def add(database: Database, store: Path, texts: Iterable[str], name: str = "mine") -> AddedBatch:
    return add_texts(database, store, texts, name)


def all_records(database: Database) -> dict[str, tuple[str, str, int]]:
    with database.reading() as session:
        return {row.content_hash: (row.split, row.shard, row.row) for row in session.query(Record)}


def left_in(store: Path) -> list[str]:
    """Files below the data set's folder that no version names."""
    kept = {"version.json"}
    return [path.name for path in (store / "datasets").rglob("*") if path.is_file() and path.name not in kept]


def test_every_kind_of_file_is_read_and_what_cannot_be_used_is_named(
    database: Database, store: Path, tmp_path: Path
) -> None:
    root = tmp_path / "upload"
    root.mkdir()
    for number, name in enumerate(("a.txt", "b.md", "c.py")):
        (root / name).write_text(a_text(number))
    rows = [json.dumps({"text": a_text(3)}), '{"text": 1}', "nonsense", json.dumps(a_text(4))]
    (root / "d.jsonl").write_text("\n".join(rows))
    (root / "e.csv").write_text(f'text,label\n"{a_text(5)}",1\n,2\n')
    pq.write_table(pa.table({"text": [a_text(6), None]}), root / "f.parquet")
    (root / "g.bin").write_bytes(b"\0\1")
    (root / "h.txt").write_bytes("naïve".encode("latin-1"))
    (root / "i.zip").write_bytes(archive_of({"x/y.txt": a_text(7).encode(), "z.exe": b"MZ", "x/t.txt": b"  "}))
    added = add_files(database, store, [root], Details("mixed", "MIT", ("a", "b")))
    report = added.report
    assert (report.accepted, report.duplicate, report.near_duplicate, report.rejected) == (8, 0, 0, 8)
    assert report.rejected_by_reason == {
        "no text in column 'text'": 2, "malformed": 1, "unknown kind": 2, "undecodable as UTF-8": 1, "empty": 2,
    }  # fmt: skip
    named = {(row.file, row.row): row.reason.split(":")[0] for row in report.rejected_rows}
    assert named[("upload/d.jsonl", 2)] == "no text in column 'text'"
    assert named[("upload/d.jsonl", 3)] == "malformed"
    assert named[("upload/e.csv", 2)] == "empty"
    assert named[("upload/g.bin", None)] == "unknown kind"
    assert named[("upload/i.zip/z.exe", None)] == "unknown kind"
    assert (added.batch.licence, added.batch.tags, added.batch.actor) == ("MIT", ["a", "b"], "command line")
    folder = Datasets(database, store).shards(1)[0].path.parent
    names = {document.name for split in ("train", "validation") for document in iterate_documents(folder, split)}
    assert {"upload/d.jsonl:4", "upload/i.zip/x/y.txt"} <= names


def test_a_versions_files_are_what_its_manifest_and_the_records_say(database: Database, store: Path) -> None:
    add(database, store, [a_text(seed) for seed in range(40)])
    add(database, store, [a_text(seed) for seed in range(30, 80)], "more")
    datasets, records = Datasets(database, store), all_records(database)
    manifest, shards = datasets.manifest(2), datasets.shards(2)
    assert (manifest.parent, manifest.counts, len(records)) == (1, counts_of(manifest.shards), 80)
    assert [shard.entry for shard in datasets.shards(1)] == manifest.shards[: len(datasets.shards(1))]
    seen = 0
    for shard in shards:
        rows = pq.read_table(shard.path).to_pylist()
        assert sha256_of_file(shard.path) == shard.entry.sha256
        assert len(read_signatures(shard.signatures)) == len(rows) == shard.entry.records
        assert {row["source"] for row in rows} == {shard.entry.source}
        for index, row in enumerate(rows):
            place = f"{shard.path.parent.name}/{shard.path.name}"
            assert records[row["hash"]] == (shard.split, place, index)
            assert split_of(row["hash"], VALIDATION_SHARE) == shard.split
            seen += 1
    assert seen == 80


def test_a_long_text_becomes_records_of_which_some_are_held_out(
    database: Database, store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(a_text(seed, 200) for seed in range(500)))
    report = add_files(database, store, [path], Details("book")).report
    assert report.bytes == pytest.approx(path.stat().st_size, rel=0.01)
    assert report.accepted > 40
    assert report.splits["validation"].records >= 1


def test_the_same_again_adds_nothing_and_says_which_batch_it_was(database: Database, store: Path) -> None:
    texts = [a_text(seed) for seed in range(5)]
    first = add(database, store, texts)
    again = add(database, store, texts, "another-name")
    assert (again.was_there, again.batch.id, again.version.number) == (True, first.batch.id, 1)  # type: ignore[union-attr]
    subset = add(database, store, texts[:3])
    assert not subset.was_there
    assert (subset.report.duplicate, subset.report.accepted, subset.report.version) == (3, 0, 1)
    assert [added.version.number for added in Datasets(database, store).history()] == [1]


def test_near_duplicates_are_left_out_in_an_upload_across_uploads_and_across_splits(
    database: Database, store: Path
) -> None:
    texts = [a_text(seed, 300) for seed in range(60)]
    first = add(database, store, [*texts, texts[0] + " word1", texts[1].upper()])
    assert (first.report.accepted, first.report.near_duplicate) == (60, 2)
    twins = [f"{text} word{seed}" for seed, text in enumerate(texts)]
    second = add(database, store, [*twins, a_text(99, 300)])
    assert (second.report.accepted, second.report.near_duplicate) == (1, 60)
    assert len(all_records(database)) == 61


@settings(max_examples=6)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.data())
def test_nothing_ever_moves_and_the_content_alone_makes_the_fingerprint(seeds: list[int], data: st.DataObject) -> None:
    """However texts come, in how many uploads, in which order: each is once, in its split, under the same root."""
    order = data.draw(st.permutations(seeds))
    cut = data.draw(st.integers(0, len(order)))
    with a_store() as (one, first), a_store() as (other, second):
        add(one, first, [a_text(seed) for seed in seeds])
        before: dict[str, tuple[str, str, int]] = {}
        for part in (order[:cut], order[cut:]):
            if part:
                add(other, second, [a_text(seed) for seed in part])
                now = all_records(other)
                assert before.items() <= now.items()
                before = now
        splits = [{key: row[0] for key, row in all_records(database).items()} for database in (one, other)]
        assert splits[0] == splits[1]
        assert len(splits[0]) == len(set(seeds))
        latest = [Datasets(database, store).latest() for database, store in ((one, first), (other, second))]
        assert latest[0].fingerprint == latest[1].fingerprint  # type: ignore[union-attr]
        assert total(counts_in(latest[0])) == total(counts_in(latest[1]))  # type: ignore[arg-type]


@contextmanager
def a_store() -> Iterator[tuple[Database, Path]]:
    with tempfile.TemporaryDirectory() as name:
        database = Database(None, Path(name))
        migrate(database)
        yield database, Path(name)
        database.close()


def test_uploads_at_the_same_time_come_one_after_the_other(database: Database, store: Path) -> None:
    added: list[AddedBatch] = []

    def send(number: int) -> None:
        added.append(add(database, store, [a_text(100 * number + seed) for seed in range(10)], f"source-{number}"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(batch.version.number for batch in added if batch.version) == [1, 2, 3, 4]
    datasets = Datasets(database, store)
    assert total(datasets.manifest(4).counts).records == len(all_records(database)) == 40
    assert len(list((store / "datasets" / "versions").iterdir())) == 4


def test_nothing_usable_is_a_bad_request_that_names_the_files_and_is_remembered(
    database: Database, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "b.jsonl").write_text("1\n2\n")
    with pytest.raises(BadRequest, match="2 no text in column 'text', 1 unknown kind") as caught:
        add_files(database, store, [tmp_path / "b.jsonl", tmp_path / "a.bin"], Details("mine"))
    assert [field[0] for field in caught.value.fields] == ["b.jsonl:1", "b.jsonl:2", "a.bin"]
    assert Datasets(database, store).latest() is None
    assert left_in(store) == []
    with pytest.raises(BadRequest, match="does not exist"):
        add_files(database, store, [tmp_path / "nowhere"], Details("mine"))


@pytest.mark.parametrize(
    ("limit", "words"), [("MAX_RECORDS", "20 records"), ("MAX_ROWS", "20 rows"), ("MAX_TEXT_BYTES", "20 bytes of text")]
)
def test_too_much_is_refused_and_nothing_of_it_is_kept(
    database: Database, store: Path, monkeypatch: pytest.MonkeyPatch, limit: str, words: str
) -> None:
    monkeypatch.setattr(intake, limit, 20)
    monkeypatch.setattr(intake, "_BLOCK_RECORDS", 8)
    with pytest.raises(TooLarge, match=f"more than {words}"):
        add(database, store, [a_text(seed) for seed in range(40)])
    assert left_in(store) == []
    assert all_records(database) == {}
