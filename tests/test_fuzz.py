"""Promise 7, a little of it: requests from the OpenAPI document, garbage and broken files, without a 5xx or a hang."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ml_service.common.settings import PROJECT


@pytest.mark.slow
def test_no_request_is_ever_an_error_of_the_service_or_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzz", "--quick", "--seed", "7"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "the promise holds" in done.stdout
