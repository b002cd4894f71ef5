"""The promises under attack, a little of it: the scripts in `tests/chaos` do the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ml_service.common.settings import PROJECT


@pytest.mark.slow
def test_nothing_accepted_is_lost_whatever_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.survive", "--kills", "8", "--seed", "1"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
