"""`ml-service data`: what is added is listed and shown, and said a second time not to be new."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ml_service.cli import app
from ml_service.common.errors import NotFound


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ML_SERVICE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["data", *words])


def test_a_folder_is_added_listed_and_shown(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"x")
    added = run("add", str(corpus), str(tmp_path / "odd.bin"), "--licence", "MIT", "--tag", "a", "--tag", "b")
    assert added.exit_code == 0, added.output
    assert "80 accepted" in added.stdout
    assert "1 rejected: version 1" in added.stdout
    assert "left out: odd.bin: unknown kind" in added.stderr
    again = run("add", str(corpus), str(tmp_path / "odd.bin"))
    assert "already there: batch 1, version 1" in again.stdout
    assert run("list").stdout.splitlines()[1].split()[:2] == ["1", "80"]
    shown = run("show", "1").stdout
    assert "licence MIT, tags a, b" in shown
    assert "left out: 1 unknown kind" in shown


@pytest.mark.parametrize(("words", "error"), [(("show", "3"), NotFound), (("add", "x", "--name", "A b"), ValueError)])
def test_what_is_wrong_is_told(words: tuple[str, ...], error: type[Exception]) -> None:
    assert isinstance(run(*words).exception, error)
