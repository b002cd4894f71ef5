"""Multipart bodies into files: the same in pieces of any size, with names as clients send them."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_service.backend.multipart_files import MultipartFiles
from ml_service.common.errors import BadRequest, TooLarge
from tests.test_http_data import END, part


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_form_is_the_same_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    content = b"\r\n--edg" + bytes(range(256)) * 3
    body = part("files", content, "a.txt") + part("tags", b"x") + part("file", b"", "b.md") + END
    form = MultipartFiles(b"edge", tmp_path, frozenset({"files", "file"}), frozenset({"tags"}))
    with pytest.raises(BadRequest, match="ends before"):
        form.finish()
    for begin in range(0, len(body), size):
        form.write(body[begin : begin + size])
    form.finish()
    assert [(file.name, Path(file.path).read_bytes()) for file in form.files] == [("a.txt", content), ("b.md", b"")]
    assert form.texts == {"tags": ["x"]}
    form.close()
    form.write(b"too late")


def test_a_name_that_is_sent_as_rfc_5987_says_is_understood(tmp_path: Path) -> None:
    head = "form-data; name=\"files\"; filename*=utf-8''na%C3%AFve.txt"
    form = MultipartFiles(b"edge", tmp_path, frozenset({"files"}), frozenset())
    form.write(f"--edge\r\nContent-Disposition: {head}\r\n\r\nx\r\n--edge--\r\n".encode())
    assert form.files[0].name == "naïve.txt"


def test_there_is_a_limit_to_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_service.backend.multipart_files._MAX_FILES", 2)
    form = MultipartFiles(b"edge", tmp_path, frozenset({"files"}), frozenset())
    with pytest.raises(TooLarge, match="at most 2 files"):
        form.write(3 * part("files", b"x", "a.txt"))
    form.close()


@given(st.integers(0, 400), st.binary(max_size=6), st.integers(1, 50))
def test_a_broken_form_is_told_and_never_raises_anything_else(where: int, change: bytes, size: int) -> None:
    whole = part("files", b"some text", "a.txt") + part("tags", b"x") + END
    body = whole[: where % len(whole)] + change + whole[where % len(whole) + len(change) :]
    with tempfile.TemporaryDirectory() as name:
        form = MultipartFiles(b"edge", Path(name), frozenset({"files"}), frozenset({"tags"}))
        with suppress(BadRequest):
            for begin in range(0, len(body), size):
                form.write(body[begin : begin + size])
            form.finish()
        form.close()


def test_there_is_a_limit_to_the_text_fields_and_to_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_service.backend.multipart_files._MAX_FIELDS", 2)
    form = MultipartFiles(b"edge", tmp_path, frozenset(), frozenset({"tags"}), max_field_bytes=4)
    with pytest.raises(TooLarge, match="at most 2 text fields"):
        form.write(3 * part("tags", b"1234"))
    form = MultipartFiles(b"edge", tmp_path, frozenset(), frozenset({"tags"}), max_field_bytes=4)
    with pytest.raises(BadRequest, match="tags: longer than 4 bytes"):
        form.write(part("tags", b"12345"))
    monkeypatch.setattr("ml_service.backend.multipart_files._MAX_FIELDS_BYTES", 7)
    form = MultipartFiles(b"edge", tmp_path, frozenset(), frozenset({"tags"}), max_field_bytes=4)
    with pytest.raises(TooLarge, match="together are longer than 7 bytes"):
        form.write(2 * part("tags", b"1234"))
