"""What a worker watches: a stage's process and how it ended, and the progress log that it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ml_service.common.settings import PROJECT
from ml_service.pipeline.curves import ProgressFollower
from ml_service.pipeline.stage_process import (
    LOG_FILE,
    PARAMETERS_FILE,
    StageFailed,
    StageInterrupted,
    StageKilled,
    run_stage_process,
    run_watched,
)
from ml_service.training.progress import ProgressLog


def prepared(directory: Path, parameters: dict[str, object]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / PARAMETERS_FILE).write_text(yaml.safe_dump(parameters))
    return directory


def never() -> bool:
    return False


def process_of(directory: Path) -> int:
    """The stage's process, found by its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(directory).encode() in words:
                return int(entry.name)
    return 0


NO_ROOM_ANYWHERE = """
import errno, sys
sys.stderr = open("/dev/full", "w", buffering=1)
from ml_service import cli
def work(): raise OSError(errno.ENOSPC, "No space left on device")
cli.app = work
cli.main()
"""


def test_a_full_disk_is_told_where_the_log_finds_no_room_either(tmp_path: Path) -> None:
    log = tmp_path / LOG_FILE
    with pytest.raises(StageFailed, match="the disk is full"):
        run_watched([sys.executable, "-c", NO_ROOM_ANYWHERE], log, os.environ, never, 5.0)
    assert log.read_text() == ""


def test_a_stage_does_its_work_and_its_words_are_kept(corpus: Path, tmp_path: Path) -> None:
    directory = prepared(
        tmp_path / "it",
        {"extract_data": {"stdlib": False, "folders": [str(corpus)], "vocabulary_size": 300, "validation_share": 0.2}},
    )
    run_stage_process("extract_data", directory, 1, 1, never)
    assert (directory / "data" / "dataset.json").is_file()
    with pytest.raises(StageFailed, match="exists and is not empty"):
        run_stage_process("extract_data", directory, 1, 1, never)
    assert "exists and is not empty" in (directory / LOG_FILE).read_text()


def test_a_stage_that_is_killed_or_asked_to_end_is_told_apart(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "it", {"extract_data": {"stdlib": True}})

    def kill() -> bool:
        if process := process_of(directory):
            os.kill(process, signal.SIGKILL)
        return False

    with pytest.raises(StageKilled, match="SIGKILL"):
        run_stage_process("extract_data", directory, 1, 1, kill)
    with pytest.raises(StageInterrupted):
        run_stage_process("extract_data", directory, 1, 1, lambda: True)


def test_a_stage_dies_with_the_worker_that_loses_its_lease(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "it", {"extract_data": {"stdlib": True}})

    def lose() -> bool:
        raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError):
        run_stage_process("extract_data", directory, 1, 1, lose)
    assert process_of(directory) == 0


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stage_dies_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    directory = prepared(tmp_path / "it", {"extract_data": {"stdlib": True, "packages": True}})
    code = (
        "import sys; from pathlib import Path; from ml_service.pipeline.stage_process import run_stage_process\n"
        "run_stage_process('extract_data', Path(sys.argv[1]), 1, 1, lambda: False)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, f"{directory}/"], cwd=PROJECT)
    until(lambda: process_of(directory) != 0)
    worker.kill()
    worker.wait()
    until(lambda: process_of(directory) == 0)


@given(st.lists(st.tuples(st.sampled_from(["append", "cut", "look", "half"]), st.integers(0, 12)), max_size=25))
def test_whatever_happens_to_the_log_the_follower_knows_it(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "progress.jsonl"
    log, follower, step = ProgressLog(path), ProgressFollower(path), 0
    known: list[dict[str, float]] = []

    def look() -> None:
        news = follower.look()
        if news.begins_anew:
            known.clear()
        known.extend(news.points)

    for change, number in changes:
        if change == "append":
            step += 1
            log.append({"step": step, "tokens": step, "seconds": 1.0, "train_loss": float(number)})
        elif change == "cut":
            step = min(step, number)
            log.cut_after(step)
        elif change == "half" and path.exists():
            with path.open("a") as file:  # a writer in the middle of a line, then killed
                file.write('{"step": 99')
            look()
            log.cut_after(step)
        look()
    assert known == log.points()


def test_a_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    follower = ProgressFollower(path)
    assert follower.look().points == []
    line = json.dumps({"step": 1})
    path.write_text(line[:5])
    assert follower.look().points == []
    path.write_text(line + "\n")
    assert follower.look().points == [{"step": 1}]
