"""Archives that mean harm: paths that lead out, contents that swell, lie or hide; all told, none followed."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.zip_members import OverLimit, ZipLimits, ZipMembers
from ml_service.common.errors import TooLarge
from ml_service.data.database import Database
from ml_service.pipeline.adding import Details, add_files
from tests.archives import archive_of
from tests.test_intake import a_text, all_records, left_in


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def taken(content: bytes, tmp_path: Path, limits: ZipLimits | None = None) -> dict[str, str | bytes]:
    """Name → content, or why there is none."""
    path, found = tmp_path / "a.zip", {}
    path.write_bytes(content)
    archive = ZipMembers(path, limits or ZipLimits())
    try:
        for member in archive:
            found[member.name] = member.refusal or _unpacked(archive, member, tmp_path / "one")
    finally:
        archive.close()
    return found


def _unpacked(archive: ZipMembers, member: object, path: Path) -> str | bytes:
    try:
        archive.unpack(member, path)  # type: ignore[arg-type]
    except OverLimit:
        raise
    except ValueError as error:
        return str(error)
    return path.read_bytes()


def test_no_path_of_an_archive_is_followed(tmp_path: Path) -> None:
    content = archive_of({"../../evil.txt": b"1", "/etc/passwd.txt": b"2", "C:\\x\\y.txt": b"3", "d/": b""})
    assert taken(content, tmp_path) == {"evil.txt": b"1", "etc/passwd.txt": b"2", "x/y.txt": b"3"}


def test_an_archive_that_swells_is_refused(database: Database, store: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(archive_of({"good.txt": a_text(1).encode(), "zeros.txt": b"0" * 5_000_000}))
    with pytest.raises(TooLarge, match=r"bomb\.zip: zeros\.txt unpacks to more than 200 times"):
        add_files(database, store, [bomb], Details("mine"))
    assert all_records(database) == {}
    assert left_in(store) == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [(ZipLimits(members=2), "more than 2 files"), (ZipLimits(unpacked_bytes=25), "more than 25 bytes")],
)
def test_an_archive_has_limits(limits: ZipLimits, words: str, tmp_path: Path) -> None:
    with pytest.raises(OverLimit, match=words):
        taken(archive_of({f"{n}.txt": b"0123456789" for n in range(3)}), tmp_path, limits)


def test_an_archives_directory_is_not_read_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.zip_members._MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(OverLimit, match="directory is too large"):
        taken(archive_of({f"{n:0100d}.txt": b"" for n in range(30)}), tmp_path)


def test_members_that_lie_or_hide_are_named(tmp_path: Path) -> None:
    honest = archive_of({"a.txt": b"0123456789" * 50}, zipfile.ZIP_STORED)
    assert "cannot be unpacked" in str(taken(honest.replace(b"0123456789", b"012345678X", 1), tmp_path)["a.txt"])
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = 0o120777 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b.txt", b"x", zipfile.ZIP_BZIP2)
    found = taken(packed.getvalue(), tmp_path)
    assert found["link.txt"] == "not a plain file"
    assert "only stored and deflated" in str(found["b.txt"])
    encrypted = bytearray(archive_of({"c.txt": b"x"}))
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    assert taken(bytes(encrypted), tmp_path)["c.txt"] == "encrypted"


def test_a_member_without_a_name_is_told(tmp_path: Path) -> None:
    packed = bytearray(archive_of({"a": b"x"}))
    names = packed.index(b"PK\1\2") + 28
    packed[names], packed[names + 2] = 0, 1  # its name is now an extra field
    assert "cannot be unpacked" in str(taken(bytes(packed), tmp_path)["unnamed"])


@given(st.binary(max_size=200), st.integers(0, 400), st.binary(max_size=4))
def test_a_broken_archive_is_told_and_never_raises_anything_else(junk: bytes, where: int, change: bytes) -> None:
    whole = archive_of({"a.txt": b"some text", "b/c.jsonl": b'{"text": "x"}'})
    for content in (junk, whole[: where % len(whole)], whole[:where] + change + whole[where + len(change) :]):
        with tempfile.TemporaryDirectory() as name:
            try:
                taken(content, Path(name))
            except ValueError as error:
                assert str(error)


def test_archives_in_archives_and_a_systems_own_files_are_left_out(
    database: Database, store: Path, tmp_path: Path
) -> None:
    path, inner = tmp_path / "a.zip", archive_of({"a.txt": b"x"})
    path.write_bytes(archive_of({"in.zip": inner, "__MACOSX/a.txt": b"x", ".git/b.txt": b"x", "a.txt": b"x y z"}))
    (tmp_path / "b.zip").write_bytes(b"no archive")
    report = add_files(database, store, [path, tmp_path / "b.zip"], Details("mine")).report
    assert report.accepted == 1
    assert report.rejected_by_reason == {"hidden": 2, "an archive in an archive": 1, "malformed": 1}
