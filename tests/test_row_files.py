"""Rows of strangers' files: read as they are wanted, whatever is in them."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.row_files import MAX_ROW_BYTES, BrokenFile, BrokenRow, json_lines, table_rows, text_lines

LONG = b"x" * (MAX_ROW_BYTES + 1)


def anything(columns: list[str]) -> None:
    """Any columns will do."""


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


def reasons(rows: list[Any]) -> list[Any]:
    return [f"!{row.reason}" if isinstance(row, BrokenRow) else row for row in rows]


def test_each_line_is_a_text_and_a_broken_one_fails_alone(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbfone\r\n\n tw\xc3\xb6 \n\xff\nnu\0l\n" + LONG + b"\nlast")
    assert reasons(list(text_lines(path))) == [
        "one", "", " twö ", "!not UTF-8: invalid start byte at byte 0", "!it has NUL bytes",
        "!longer than 131,072 bytes", "last",
    ]  # fmt: skip


def test_the_longest_line_that_is_taken_is_taken_with_either_end(tmp_path: Path) -> None:
    for end in (b"\n", b"\r\n", b""):
        path = written(tmp_path, b"a\n" + b"x" * MAX_ROW_BYTES + end)
        assert [len(row) for row in text_lines(path) if isinstance(row, str)] == [1, MAX_ROW_BYTES]


def test_lines_of_json_are_their_values(tmp_path: Path) -> None:
    path = written(tmp_path, b'"a"\n\n{"text": "b"}\n{\n' + b"[" * 100_000 + b"\n7\n")
    rows = reasons(list(json_lines(path)))
    assert rows[:2] == ["a", {"text": "b"}]
    assert rows[2].startswith("!not JSON: Expecting property name")
    assert rows[3].startswith("!not JSON: ")
    assert rows[4:] == [7]


def test_a_table_gives_rows_by_column_and_goes_on_behind_broken_ones(tmp_path: Path) -> None:
    content = (
        b'\xef\xbb\xbfid,text\r\n1,"two\nlines, ""quoted"""\n2,\n\n3,a,b\n\xff,a\n4,nu\0l\n5,' + LONG + b"\n6,end\n"
    )
    assert reasons(list(table_rows(written(tmp_path, content), anything))) == [
        {"id": "1", "text": 'two\nlines, "quoted"'}, {"id": "2"}, "!3 cells for 2 columns",
        "!not UTF-8: invalid start byte at byte 0", "!it has NUL bytes", "!longer than 131,072 bytes",
        {"id": "6", "text": "end"},
    ]  # fmt: skip


def test_a_record_that_never_ends_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = written(tmp_path, b"text\n" + b'a","\n' * 200_000)
    tracemalloc.start()
    try:
        broken = sum(isinstance(row, BrokenRow) for row in table_rows(path, anything))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert broken > 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text\nя".encode("utf-16"), "the file is UTF-16: UTF-8 is wanted"),
        ("text\n".encode("utf-32"), "the file is UTF-32"),
        (b"a\0b\n", "NUL"),
        ("привет\n".encode("cp1251"), "not UTF-8"),
        (b",".join(b"c%d" % number for number in range(1_000_000)), "longer than 131,072 bytes"),
        (b",".join(b"c%d" % number for number in range(2_000)), "2,000 columns: at most 1,000"),
        (b"text,text\n", "two columns 'text'"),
    ],
)
def test_a_file_that_cannot_be_used_at_all_is_refused_at_its_beginning(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(BrokenFile, match=words):
        next(table_rows(written(tmp_path, content), anything))


def test_rows_are_read_as_they_are_wanted(tmp_path: Path) -> None:
    path = written(tmp_path, b"text\n" + b"some words\n" * 200_000)
    readers: tuple[Callable[[], Any], ...] = (
        lambda: text_lines(path), lambda: json_lines(path), lambda: table_rows(path, anything),
    )  # fmt: skip
    for reader in readers:
        tracemalloc.start()
        try:
            assert len(list(islice(reader(), 5))) == 5
            assert tracemalloc.get_traced_memory()[1] < 2 << 20
        finally:
            tracemalloc.stop()


@given(st.binary(max_size=200))
def test_no_content_is_ever_an_error_of_another_kind(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = written(Path(name), content)
        for rows in (text_lines(path), json_lines(path), table_rows(path, anything)):
            with suppress(BrokenFile):
                list(rows)
