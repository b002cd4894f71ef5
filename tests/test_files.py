"""Files whole or absent, and where an artifact comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lib import memory
from lib.files import sha256_of_file, staged, staged_directory, write_json
from lib.memory import at_most_more, give_back_freed_pages, keep_freed_pages
from lib.provenance import current_commit


def test_a_file_is_replaced_whole_or_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})
    before = sha256_of_file(path)
    with pytest.raises(RuntimeError), staged(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("the disk is full")
    assert sha256_of_file(path) == before
    assert [file.name for file in path.parent.iterdir()] == ["value.json"]


def test_a_directory_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(RuntimeError), staged_directory(target) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []
    with staged_directory(target) as temporary:
        (temporary / "a").write_text("whole")
        assert not target.exists()
    assert (target / "a").read_text() == "whole"
    with pytest.raises(FileExistsError), staged_directory(target):
        pass


def test_a_changed_tree_is_recorded_as_such(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert str(current_commit(tmp_path)) == "unknown"
    git("init", "--quiet")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--quiet", "--message", "first")
    sha = git("rev-parse", "HEAD")
    assert str(current_commit(tmp_path)) == sha
    (tmp_path / "b").write_text("2")
    assert str(current_commit(tmp_path)) == f"{sha}-dirty"
    git("add", "b")
    git("commit", "--quiet", "--message", "second")
    (tmp_path / ".git" / "index").write_bytes(b"broken")  # what cannot be told is not called clean
    assert str(current_commit(tmp_path)).endswith("-dirty")


@pytest.mark.parametrize("told", ["0123abc", "0123abc-dirty"])
def test_code_that_left_its_repository_says_where_it_comes_from(tmp_path: Path, told: str) -> None:
    (tmp_path / "COMMIT").write_text(f"{told}\n")
    assert str(current_commit(tmp_path)) == told
    assert current_commit(tmp_path).is_dirty == told.endswith("-dirty")
    (tmp_path / "COMMIT").write_text("\n")  # it was built from neither a repository nor a word
    assert str(current_commit(tmp_path)) == "unknown"


def test_the_allocator_is_asked_and_nothing_breaks() -> None:
    assert isinstance(keep_freed_pages(), bool)
    assert isinstance(give_back_freed_pages(), bool)


@pytest.mark.parametrize(
    ("folder", "limit", "used", "prefix"),
    [("", "memory.max", "memory.current", ""), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")],
)
def test_a_container_has_what_its_limit_leaves_and_what_files_only_borrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, limit: str, used: str, prefix: str
) -> None:
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (group / limit).write_text(f"{100 << 20}\n")
    (group / used).write_text(f"{90 << 20}\n")
    (group / "memory.stat").write_text(f"anon 5\n{prefix}active_file {30 << 20}\n{prefix}inactive_file {20 << 20}\n")
    assert memory.free_bytes() == 60 << 20
    (group / limit).write_text("max\n")
    assert memory.free_bytes() > 100 << 20


def test_who_takes_more_memory_than_allowed_is_told() -> None:
    with pytest.raises(MemoryError), at_most_more(50 << 20):
        bytearray(500 << 20)
    assert len(bytearray(100 << 20)) == 100 << 20
