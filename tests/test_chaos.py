"""The promises under attack, a little of it: the scripts in `tests/chaos` do the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ml_service.common.settings import PROJECT
from tests.chaos.promises import PROMISES
from tests.chaos.table import row

OWN_TESTS = {"fuzz"}
"""Its quick part runs beside its own tests."""


@pytest.mark.slow
@pytest.mark.parametrize("script", [promise.script for promise in PROMISES if promise.script not in OWN_TESTS])
def test_what_is_promised_holds_under_attack(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.chaos.{script}", "--quick"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_every_promise_has_a_script_and_a_row() -> None:
    assert [promise.number for promise in PROMISES] == list(range(1, 9))
    for promise in PROMISES:
        assert (PROJECT / "tests" / "chaos" / f"{promise.script}.py").is_file()
        assert row(promise, None).startswith(f"| {promise.number} | {promise.sentence} | not measured |")


def test_a_broken_promise_is_not_hidden_in_the_table() -> None:
    result = {
        "figures": {"kills": "8"}, "broken": ["2 texts are lost"], "date": "2026-01-01T00:00:00+00:00",
        "is_quick": True, "seconds": 90,
    }  # fmt: skip
    told = row(PROMISES[0], result)
    assert "| kills: 8 | no: 2 texts are lost |" in told
    assert "2026-01-01, quick, 90 s" in told
    assert "| yes |" in row(PROMISES[0], result | {"broken": []})
