"""Reading documents: what is taken, what is refused and in which words."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.corpora import folder, hub_dataset, pinned_packages, read_pins, standard_library
from lib.near_duplicates import HeldOutLines
from lib.text_data import Document, Rejected, content_hash, read_documents, split_of


def read(root: Path, **limits: int) -> dict[str, Document | Rejected]:
    return {item.name: item for item in read_documents(folder(root), **limits)}


def test_unusable_files_are_named_with_a_reason_and_never_raise(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "broken.jsonl").write_text('{"text": ')
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    items = read(tmp_path, max_document_bytes=100)
    reasons = {name: item.reason.split(":")[0] for name, item in items.items() if isinstance(item, Rejected)}
    assert reasons == {
        "empty.txt": "empty",
        "binary.txt": "binary",
        "latin.txt": "undecodable as UTF-8",
        "broken.jsonl:1": "malformed",
        "broken.parquet": "malformed",
    }
    assert isinstance(items["good.py"], Document)


@given(st.text(st.sampled_from("ab é日🙂\n"), max_size=300), st.integers(8, 40))
def test_a_long_text_is_cut_and_nothing_of_it_is_lost(text: str, limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a.txt").write_text(text, newline="")
        (Path(name) / "b.jsonl").write_text(json.dumps(text))
        items = read(Path(name), max_document_bytes=limit)
    for file in ("a.txt", "b.jsonl:1"):
        pieces = [item for item in items.values() if isinstance(item, Document) and item.name.startswith(file)]
        assert all(piece.size_bytes <= limit for piece in pieces)
        assert "".join(piece.text for piece in pieces).split() == text.split()


def test_a_cut_is_made_between_paragraphs_before_lines_before_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two\n\nthree four\nfive")
    for limit, first in ((12, "one two\n\n"), (22, "one two\n\nthree four\n"), (8, "one two\n"), (6, "one ")):
        assert read(tmp_path, max_document_bytes=limit)["a.txt"].text == first  # type: ignore[union-attr]


def test_a_file_of_rows_without_line_ends_is_refused_rather_than_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.text_data.MAX_ROW_BYTES", 50)
    (tmp_path / "a.jsonl").write_text('"one"\n' + '"' + "x" * 60 + '"')
    (tmp_path / "b.csv").write_text('text\none\n"' + "x" * 60)
    items = read(tmp_path)
    assert {name for name, item in items.items() if isinstance(item, Document)} == {"a.jsonl:1", "b.csv:1"}
    assert "longer than" in items["a.jsonl"].reason  # type: ignore[union-attr]
    assert "malformed" in items["b.csv"].reason  # type: ignore[union-attr]


def test_rows_become_documents_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"other": 1}\n"two"\n')
    (tmp_path / "b.csv").write_text('text,label\n"three, with\na line",1\n,2\n')
    pq.write_table(pa.table({"text": ["four", None]}), tmp_path / "c.parquet")
    items = read(tmp_path)
    assert {name: item.text for name, item in items.items() if isinstance(item, Document)} == {
        "a.jsonl:1": "one",
        "a.jsonl:3": "two",
        "b.csv:1": "three, with\na line",
        "c.parquet:1": "four",
    }
    assert {name for name, item in items.items() if isinstance(item, Rejected)} == {
        "a.jsonl:2",
        "b.csv:2",
        "c.parquet:2",
    }


def test_a_bad_row_costs_itself_alone(tmp_path: Path) -> None:
    rows = [b'"one"', b'{"text": ', b'"\xff"', b"[" * 200_000, b'"two"']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    items = read(tmp_path)
    assert {name for name, item in items.items() if isinstance(item, Document)} == {"a.jsonl:1", "a.jsonl:5"}
    rejected = {name: item.reason.split(":")[0] for name, item in items.items() if isinstance(item, Rejected)}
    assert rejected == {"a.jsonl:2": "malformed", "a.jsonl:3": "malformed", "a.jsonl:4": "malformed"}


def test_line_ends_and_byte_order_marks_are_normalised(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (item,) = read(tmp_path).values()
    assert isinstance(item, Document)
    assert item.text == "one\ntwo\nthree\n"


@given(st.text(), st.floats(0, 1))
def test_the_split_is_a_function_of_the_content(text: str, share: float) -> None:
    assert split_of(content_hash(text), share) == split_of(content_hash(text), share)
    assert split_of(content_hash(text), 0) == "train"
    assert split_of(content_hash(text), 1) == "validation"


@given(st.floats(0, 1), st.floats(0, 1), st.text())
def test_a_larger_validation_share_only_adds(first: float, second: float, text: str) -> None:
    smaller, larger = sorted((first, second))
    if split_of(content_hash(text), smaller) == "validation":
        assert split_of(content_hash(text), larger) == "validation"


def test_white_space_at_line_ends_and_composition_do_not_make_another_text() -> None:
    assert content_hash("caf\u00e9  \nx\n\n") == content_hash("cafe\u0301\nx")
    assert content_hash("a b") != content_hash("ab")


def test_a_near_duplicate_of_a_held_out_document_is_recognised() -> None:
    lines = [f"this is line number {number} of it" for number in range(20)]
    held_out = HeldOutLines()
    held_out.add("original", "\n".join(lines))
    assert held_out.repeated_by("\n".join([*lines[:18], "something else entirely"])) == "original"
    assert held_out.repeated_by("\n".join(lines[:10] + [f"a very different line {n}" for n in range(30)])) is None


def test_the_standard_library_is_there_without_its_tests() -> None:
    names = {file.name for file in standard_library()}
    assert len(names) > 300
    assert "json/decoder.py" in names
    assert not any("/test/" in name or name.startswith("test/") for name in names)


def test_pinned_packages_are_read_in_exactly_the_pinned_version(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    version = __import__("typer").__version__
    lock.write_text(f"# comment\ntyper=={version}\nno-such-package==1.0\n")
    assert read_pins(lock) == {"typer": version, "no-such-package": "1.0"}
    assert {file.source for file in pinned_packages(lock)} == {"packages"}
    lock.write_text("typer==0.0.1\n")
    with pytest.raises(ValueError, match=r"pins 0\.0\.1"):
        list(pinned_packages(lock))


def test_a_data_set_of_the_hub_is_read_from_its_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "20231101.ru").mkdir()
    pq.write_table(pa.table({"text": ["of another configuration"]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"text": ["\u043e\u0434\u0438\u043d"]}), tmp_path / "20231101.ru" / "train-0.parquet")
    asked = []

    def fetch(name: str, **how: str) -> str:
        asked.append((name, how["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    (document,) = read_documents(hub_dataset("wikimedia/wikipedia", "20231101.ru"))
    assert isinstance(document, Document)
    assert (document.source, document.text) == ("hub--wikimedia--wikipedia--20231101.ru", "\u043e\u0434\u0438\u043d")
    assert asked == [("wikimedia/wikipedia", ["20231101.ru/*.parquet"])]


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(ConnectionError, match="the hub gave no data set 'a/b'"):
        list(hub_dataset("a/b"))


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(folder(tmp_path / "nothing"))


@pytest.mark.slow
def test_memory_is_flat_in_the_size_of_a_file(tmp_path: Path) -> None:
    """200 MB in one file, as text and as rows, read by a process of its own."""
    line = "The quick brown fox jumps over the lazy dog and sleeps.\n"
    (tmp_path / "large.txt").write_text(line * (200_000_000 // len(line)))
    with (tmp_path / "large.jsonl").open("w") as rows:
        for number in range(200):
            rows.write(json.dumps({"text": f"{number} {line * 18_000}"}) + "\n")
    script = (
        "import resource, sys; from pathlib import Path; from lib.corpora import folder; from lib.text_data import *\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "import pyarrow.parquet; before = peak()\n"
        "print(sum(item.size_bytes for item in read_documents(folder(Path(sys.argv[1])))), peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    size_bytes, grown_mib = map(int, done.stdout.split())
    assert size_bytes > 390_000_000
    assert grown_mib < 100
