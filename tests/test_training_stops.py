"""How a training ends before its time: signals, numbers that are none, a full disk; nothing that was learnt is lost."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lib.interruption import CheckpointFailed, Diverged, Interruption
from ml_service.common.errors import InsufficientStorage
from ml_service.common.settings import PROJECT
from ml_service.training.plan import load_plan
from ml_service.training.progress import ProgressLog
from ml_service.training.run_files import MODEL_DIRECTORY, PROGRESS_FILE, check_room, last_checkpoint, step_of
from ml_service.training.workflow import build_training_artifacts, train
from tests.conftest import small_plan


def command(dataset: Path, run: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "ml_service.cli", "train", str(run), "--data", str(dataset), "--set", "window=64",
        "--set", "batch_size=8", "--set", "validation_tokens=1024", "--set", "precision=fp32", *words,
    ]  # fmt: skip


def wait_for_a_point(process: subprocess.Popen[str], run: Path) -> None:
    """Until something has been logged: the training runs."""
    while not ProgressLog(run / PROGRESS_FILE).points():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on(
    dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    words = command(dataset, run, "--steps", "100000", "--set", "evaluations=1", "--set", "checkpoints=1")
    process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    wait_for_a_point(process, run)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    step = step_of(last_checkpoint(run))
    assert f"stopped by {number.name} after step {step}; the same command goes on" in told
    assert "Traceback" not in told
    assert ProgressLog(run / PROGRESS_FILE).points()[-1]["step"] == step > 0
    resumed = build_training_artifacts(load_plan(run))
    assert step_of(resumed.checkpoint) == step


def test_a_second_signal_ends_at_once() -> None:
    interruption = Interruption()
    with interruption.watching():
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("what", ["the loss", "the gradient"])
def test_what_is_no_number_stops_before_it_spoils_the_weights(
    dataset: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    artifacts = build_training_artifacts(small_plan(dataset, run, steps=20, checkpoints=4, evaluations=1))
    forward = artifacts.model.forward

    def spoiled(*args: object, **kwargs: object) -> torch.Tensor:
        loss = forward(*args, **kwargs)
        if artifacts.trainer.state.global_step < 12 or not torch.is_grad_enabled():
            return loss
        if what == "the loss":
            return loss * float("nan")
        return loss + (artifacts.model.lm_head.weight.sum() * 0).sqrt()  # a slope of infinity times zero

    monkeypatch.setattr(artifacts.model, "forward", spoiled)
    with pytest.raises(Diverged, match=f"{what} is nan at step 13"):
        train(artifacts)
    assert step_of(last_checkpoint(run)) == 10
    assert all(parameter.isfinite().all() for parameter in artifacts.model.parameters())
    assert not (run / MODEL_DIRECTORY).exists()
    # The last good checkpoint goes on to the end.
    train(build_training_artifacts(small_plan(dataset, run, steps=20, checkpoints=4, evaluations=1)))
    assert (run / MODEL_DIRECTORY).is_dir()


def limited(file_bytes: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write over the limit fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return limit


def test_a_disk_that_takes_no_checkpoint_ends_the_run_in_words_and_it_goes_on_when_there_is_room(
    dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = command(dataset, run, "--steps", "20", "--set", "checkpoints=2", "--set", "evaluations=1")
    full = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, preexec_fn=limited(3_000_000))
    assert full.returncode == 1
    assert "the checkpoint of step 10 could not be written" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(run.glob("checkpoints/checkpoint-*"))
    subprocess.run(words, cwd=PROJECT, check=True, capture_output=True)
    assert (run / MODEL_DIRECTORY).is_dir()


def test_a_trained_model_that_finds_no_room_is_not_lost(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    artifacts = build_training_artifacts(small_plan(dataset, run, steps=3))

    def fail(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(artifacts.model, "save", fail)
    with pytest.raises(CheckpointFailed, match="the trained model could not be written"):
        train(artifacts)
    assert not (run / MODEL_DIRECTORY).exists()
    again = build_training_artifacts(load_plan(run))
    train(again)
    assert again.trainer.state.global_step == 3
    assert (run / MODEL_DIRECTORY).is_dir()


def test_an_error_of_the_disk_is_known_by_its_cause_too(dataset: Path, tmp_path: Path) -> None:
    artifacts = build_training_artifacts(small_plan(dataset, tmp_path / "run", steps=1))

    def fail(*_: object) -> None:
        raise RuntimeError("wrapped") from OSError(28, "No space left on device")

    artifacts.trainer._save_scaler = fail
    with pytest.raises(CheckpointFailed, match="step 1 could not be written"):
        train(artifacts)


def test_a_run_without_room_for_its_checkpoints_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(InsufficientStorage, match="MB are free: make room"):
        check_room(tmp_path / "not" / "there" / "yet", 1 << 60)
    check_room(tmp_path, 1)
