"""The data set that grows: batches and versions on both databases, staging folders, what a killed intake leaves."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.file_names import plain_name, slug
from ml_service.common.errors import Conflict, NotFound, Unavailable
from ml_service.data import audit, staging
from ml_service.data.batch_report import BatchReport, StoredError
from ml_service.data.batches import Batches, NewRecord, Received, Upload, report_of, version_folder
from ml_service.data.database import Database
from ml_service.data.datasets import Datasets, counts_in
from ml_service.data.leftovers import sweep
from ml_service.data.staging import Staging, received_file, upload_sha256, write_texts
from ml_service.data.tables import AuditEvent, Record
from ml_service.data.version_manifest import Amount, ShardEntry, VersionManifest, counts_of, total

FINGERPRINTS = [f"{number:064x}" for number in range(10)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def upload_of(folder: Staging, content: str = "one", key: str | None = None, name: str = "mine") -> Upload:
    files = [write_texts(folder, [content])]
    folder.remember(files)
    return Upload(name, "MIT", ["a"], upload_sha256(files), files[0].size_bytes, folder.token, "tests", key)


def receive(database: Database, store: Path, content: str = "one", key: str | None = None) -> tuple[Staging, Received]:
    folder = staging.create(store)
    return folder, Batches(database, store).receive(upload_of(folder, content, key))


def a_manifest(number: int, batch_id: int, token: str) -> VersionManifest:
    shards = [
        ShardEntry(
            path=f"{version_folder(number, token)}/{split}-00000.parquet", sha256="0" * 64, split=split,
            source="mine", records=number, bytes=10 * number,
        )
        for split in ("train", "validation")
    ]  # fmt: skip
    return VersionManifest(
        number=number, parent=number - 1 or None, batch_id=batch_id, fingerprint=FINGERPRINTS[number],
        created="2026-01-01T00:00:00+00:00", counts=counts_of(shards), shards=shards,
    )  # fmt: skip


def records_of(number: int) -> list[NewRecord]:
    return [NewRecord(f"{number:032x}{row:032x}", 5, "train", "somewhere", row) for row in range(3)]


def accept(database: Database, store: Path, number: int) -> int:
    """A version with three records, as the intake makes it."""
    folder, received = receive(database, store, f"content {number}")
    manifest = a_manifest(number, received.batch.id, folder.token)
    manifest.write(store / version_folder(number, folder.token))
    report = BatchReport(accepted=3, version=number)
    Batches(database, store).accept(received.batch.id, report.model_dump(), manifest, records_of(number))
    folder.remove()
    return received.batch.id


def test_an_accepted_batch_brings_its_version_its_records_and_an_event(database: Database, store: Path) -> None:
    batch_id, datasets = accept(database, store, 1), Datasets(database, store)
    version = datasets.latest()
    assert version is not None
    assert (version.number, version.parent_id, version.fingerprint) == (1, None, FINGERPRINTS[1])
    assert datasets.by_id(version.id).number == datasets.get(1).number == 1
    assert datasets.added(1).batch.state == "accepted"
    assert total(counts_in(version)) == Amount(records=2, bytes=20)
    assert datasets.size_bytes(version) == 20
    assert [(shard.split, shard.size_bytes, shard.path.parent.parent.name) for shard in datasets.shards(1)] == [
        ("train", 10, "versions"), ("validation", 10, "versions"),
    ]  # fmt: skip
    hashes = [record.content_hash for record in records_of(1)]
    assert datasets.known([*hashes, "f" * 64]) == set(hashes)
    assert [value.hex() for value in datasets.hashes()] == hashes
    with database.reading() as session:
        event = session.query(AuditEvent).one()
        assert (event.actor, event.action, event.target) == ("tests", "data.add", f"batch {batch_id}")
    assert audit.verify(database) == (1, None)


def test_versions_are_told_newest_first_and_one_that_is_not_there_is_told_in_words(
    database: Database, store: Path
) -> None:
    datasets = Datasets(database, store)
    assert datasets.latest() is None
    with pytest.raises(NotFound, match="nothing was added yet"):
        datasets.get(1)
    for number in (1, 2, 3):
        accept(database, store, number)
    assert [added.version.number for added in datasets.history()] == [3, 2, 1]
    assert [added.version.number for added in datasets.history(1, before=3)] == [2]
    assert datasets.manifest(2).parent == 1
    for number in (0, 4):
        with pytest.raises(NotFound, match=f"no version {number} of the data set: the newest is 3"):
            datasets.get(number)


def test_all_of_a_batch_comes_or_nothing(database: Database, store: Path) -> None:
    """A record that is there already, by whatever mistake, takes the whole transaction with it."""
    accept(database, store, 1)
    folder, received = receive(database, store, "another")
    manifest = a_manifest(2, received.batch.id, folder.token)
    doubled = [*records_of(2), records_of(1)[0]]
    with pytest.raises(Exception, match="content_hash"):
        Batches(database, store).accept(received.batch.id, {"version": 2}, manifest, doubled)
    folder.remove()
    assert Batches(database, store).get(received.batch.id).state == "received"
    with database.reading() as session:
        assert session.query(Record).count() == 3
        assert session.query(AuditEvent).count() == 1


def test_a_version_that_came_in_between_is_a_conflict(database: Database, store: Path) -> None:
    accept(database, store, 1)
    folder, received = receive(database, store, "another")
    late = a_manifest(1, received.batch.id, folder.token)
    with pytest.raises(Conflict, match="in between"):
        Batches(database, store).accept(received.batch.id, {"version": 1}, late, [])
    folder.remove()


def test_the_same_content_is_the_same_batch_unless_it_was_rejected(database: Database, store: Path) -> None:
    batches = Batches(database, store)
    first, received = receive(database, store)
    second, again = receive(database, store)
    assert (again.batch.id, again.is_new) == (received.batch.id, False)
    rejected = BatchReport(error=StoredError(kind="TooLarge", message="it swells"))
    batches.reject(received.batch.id, rejected.model_dump(), keeps_key=True)
    with pytest.raises(Exception, match="it swells"):
        report_of(batches.get(received.batch.id))
    third, anew = receive(database, store)
    assert anew.is_new
    with pytest.raises(Conflict, match="is rejected"):
        batches.begin(received.batch.id)
    for folder in (first, second, third):
        folder.remove()


def test_many_who_send_the_same_at_once_make_one_batch(database: Database, store: Path) -> None:
    got: list[tuple[int, bool]] = []

    def send() -> None:
        folder, received = receive(database, store)
        got.append((received.batch.id, received.is_new))
        folder.release()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({batch_id for batch_id, _ in got}) == 1
    assert sorted(is_new for _, is_new in got) == [False] * 5 + [True]


def test_a_key_is_for_one_wish(database: Database, store: Path) -> None:
    _, first = receive(database, store, "one", key="k")
    _, same = receive(database, store, "one", key="k")
    assert same.batch.id == first.batch.id
    for folder, changes in ((staging.create(store), {"content": "two"}), (staging.create(store), {"name": "other"})):
        with pytest.raises(Conflict, match=f"batch {first.batch.id}"):
            Batches(database, store).receive(upload_of(folder, key="k", **changes))
    Batches(database, store).reject(first.batch.id, BatchReport().model_dump(), keeps_key=False)
    _, free = receive(database, store, "two", key="k")
    assert free.is_new


def test_what_nobody_holds_is_swept_and_what_somebody_holds_stays(database: Database, store: Path) -> None:
    held, at_work = receive(database, store, "held")
    dead, left = receive(database, store, "left")
    alone = staging.create(store)
    orphan = store / version_folder(1, dead.token)
    orphan.mkdir(parents=True)
    dead.release()
    alone.release()
    assert sweep(database, store) == 2
    assert sorted(staging.tokens(store)) == [held.token]
    assert not orphan.exists()
    batches = Batches(database, store)
    assert batches.get(at_work.batch.id).state == "received"
    with pytest.raises(Unavailable, match="interrupted"):
        report_of(batches.get(left.batch.id))
    assert sweep(database, store) == 0
    held.release()
    assert sweep(database, store) == 1
    assert not list(staging.tokens(store))


def test_a_batch_whose_folder_is_gone_is_swept_too(database: Database, store: Path) -> None:
    folder, received = receive(database, store)
    folder.remove()
    assert sweep(database, store) == 1
    assert Batches(database, store).get(received.batch.id).state == "rejected"


def test_versions_of_another_database_in_the_same_store_are_left_alone(database: Database, store: Path) -> None:
    """Who changes from SQLite to PostgreSQL must not lose what was there."""
    accept(database, store, 1)
    foreign = store / version_folder(1, "0123456789abcdef")
    foreign.mkdir(parents=True)
    sweep(database, store)
    assert foreign.exists()


def test_a_folder_is_held_by_all_who_joined_it_and_never_while_it_is_swept(tmp_path: Path) -> None:
    first = staging.create(tmp_path)
    second = staging.join(tmp_path, first.token)
    assert second is not None
    first.release()
    assert staging.seize(tmp_path, first.token) is None
    second.release()
    seized = staging.seize(tmp_path, first.token)
    assert seized is not None
    joined: list[Staging | None] = []
    waiting = threading.Thread(target=lambda: joined.append(staging.join(tmp_path, first.token)))
    waiting.start()
    seized.remove()
    waiting.join()
    assert joined == [None]
    assert staging.join(tmp_path, first.token) is None


def test_creating_while_everything_is_swept_gives_a_folder_that_is_there(tmp_path: Path) -> None:
    stop = threading.Event()

    def sweep_all() -> None:
        while not stop.is_set():
            for token in staging.tokens(tmp_path):
                if (folder := staging.seize(tmp_path, token)) is not None:
                    folder.remove()

    sweeper = threading.Thread(target=sweep_all)
    sweeper.start()
    try:
        for _ in range(200):
            folder = staging.create(tmp_path)
            descriptor = os.open(folder.path / "lock", os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(descriptor)
            folder.remove()
    finally:
        stop.set()
        sweeper.join()


@given(st.permutations(["a", "b", "c"]), st.booleans())
def test_an_uploads_hash_is_that_of_its_contents_in_any_order_under_any_name(order: list[str], as_text: bool) -> None:
    def files(names: list[str], suffix: str) -> list[staging.ReceivedFile]:
        return [staging.ReceivedFile(f"/x/{n}{suffix}", n, f"{ord(n):064x}", 1) for n in names]

    suffix = ".TXT" if as_text else ".csv"  # how a file is read is a part of what it says
    is_same = upload_sha256(files(order, ".txt")) == upload_sha256(files(["a", "b", "c"], suffix))
    assert is_same == as_text


@given(st.text(max_size=300))
def test_no_name_leads_out_of_a_folder(given_name: str) -> None:
    name = plain_name(given_name)
    root = Path("/safe")
    assert (root / name).resolve().is_relative_to(root)
    assert 0 < len(name) <= 200
    assert name.isprintable() or not name.isascii()
    json.dumps(name).encode()


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [("../../etc/passwd", "etc/passwd"), ("C:\\docs\\a.txt", "docs/a.txt"), ("/a//./b.txt", "a/b.txt"),
     ("a\nb\0.txt", "a_b_.txt"), ("..", "unnamed"), ("", "unnamed")],
)  # fmt: skip
def test_a_strangers_path_is_only_a_name(given_name: str, expected: str) -> None:
    assert plain_name(given_name) == expected


def test_a_source_is_called_after_its_file(tmp_path: Path) -> None:
    assert slug("My Notes (final).v2", "texts") == "my-notes-final-v2"
    assert slug("日本", "texts") == "texts"
    (tmp_path / "a.txt").write_text("x")
    assert received_file(tmp_path / "a.txt", "../a.txt").name == "a.txt"
