"""Training: the budget is kept, a run resumes as if nothing had happened, wrong plans are refused in words."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from lib.budget import Budget
from lib.corpora import folder
from lib.dataset_builder import BuildOptions, build_dataset
from lib.learning_rate import warmup_stable_decay
from lib.modeling import count_parameters, create_model
from lib.presets import PRESETS
from lib.token_shards import TOKENIZER_FILE
from lib.tokenizer import load_tokenizer, save_tokenizer, train_byte_level_bpe
from lib.training_clock import TrainingClock
from ml_service.common.errors import Conflict
from ml_service.common.settings import PROJECT
from ml_service.training.plan import load_plan
from ml_service.training.progress import ProgressLog
from ml_service.training.run_files import (
    MODEL_DIRECTORY,
    PROGRESS_FILE,
    RUN_FILE,
    TENSORBOARD_DIRECTORY,
    last_checkpoint,
)
from ml_service.training.workflow import build_training_artifacts, train
from tests.conftest import small_plan

MEASURED = {"seconds", "tokens_per_second", "mfu"}


def curve(run: Path) -> list[dict[str, float]]:
    """The points without what a clock measured."""
    points = ProgressLog(run / PROGRESS_FILE).points()
    return [{name: value for name, value in point.items() if name not in MEASURED} for point in points]


def command(dataset: Path, run: Path) -> list[str]:
    """`small_plan` of forty updates, as typed."""
    return [
        sys.executable, "-m", "ml_service.cli", "train", str(run), "--data", str(dataset), "--experiment", "small",
        "--steps", "40", "--set", "window=64", "--set", "batch_size=8", "--set", "validation_tokens=1024",
        "--set", "evaluations=2", "--set", "checkpoints=2", "--set", "precision=fp32",
    ]  # fmt: skip


def test_a_run_learns_and_leaves_its_files(run: Path) -> None:
    points = curve(run)
    losses = [point["train_loss"] for point in points if "train_loss" in point]
    assert losses[-1] < losses[0] - 0.5
    assert points[-1]["step"] == 40
    assert any("validation_code_bits_per_byte" in point for point in points)
    facts = json.loads((run / RUN_FILE).read_text())
    assert facts["tokens"] == 40 * small_plan(steps=1).tokens_per_step
    assert list((run / TENSORBOARD_DIRECTORY).glob("events.out.tfevents*"))
    assert load_plan(run).steps == 40


def test_a_finished_run_is_left_as_it_is(run: Path) -> None:
    files = [run / MODEL_DIRECTORY / "model.safetensors", run / PROGRESS_FILE, run / RUN_FILE]
    before = [file.read_bytes() for file in files]
    train(build_training_artifacts(load_plan(run)))
    assert [file.read_bytes() for file in files] == before


def test_a_killed_run_resumes_with_the_curve_of_an_uninterrupted_one(run: Path, dataset: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    words = command(dataset, killed)
    process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    log = ProgressLog(killed / PROGRESS_FILE)
    deadline = time.monotonic() + 240
    while last_checkpoint(killed) is None:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run never came to its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / MODEL_DIRECTORY).exists()
    log.append({"step": 21, "seconds": 1e6})  # as if it had come further than its checkpoint before the kill
    subprocess.run(words, cwd=PROJECT, check=True, capture_output=True)
    ours, expected = curve(killed), curve(run)
    assert [point["step"] for point in ours] == [point["step"] for point in expected]
    for point, other in zip(ours, expected, strict=True):
        assert point == pytest.approx(other, rel=1e-4)
    weights, others = (load_file(directory / MODEL_DIRECTORY / "model.safetensors") for directory in (killed, run))
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, others[name], atol=1e-4)


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((10, "{}"), (20, '{"cut'), (30, None)):
        checkpoint = tmp_path / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        if state is not None:
            (checkpoint / "trainer_state.json").write_text(state)
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"


def test_a_progress_log_forgets_what_came_after_the_checkpoint_and_half_a_line(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path / "progress.jsonl")
    for step in (10, 20, 30):
        log.append({"step": step, "seconds": step / 10})
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write('{"step": 40, "sec')
    resumed = log.cut_after(20)
    assert (resumed.step, resumed.seconds) == (20, 2.0)
    assert [point["step"] for point in log.points()] == [10, 20]


def test_another_plan_or_other_data_in_the_same_directory_is_refused(run: Path, dataset: Path) -> None:
    with pytest.raises(Conflict, match="another plan"):
        build_training_artifacts(small_plan(dataset, run, steps=41))


def test_a_plan_that_cannot_be_built_does_not_block_the_mended_one(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no source wrong"):
        build_training_artifacts(small_plan(dataset, tmp_path / "run", steps=1, mixture={"wrong": 1.0}))
    build_training_artifacts(small_plan(dataset, tmp_path / "run", steps=1, mixture={"code": 1.0}))
    assert load_plan(tmp_path / "run").mixture == {"code": 1.0}


def test_a_budget_in_seconds_ends_the_run_in_time(dataset: Path, tmp_path: Path) -> None:
    artifacts = build_training_artifacts(small_plan(dataset, tmp_path / "run", seconds=1.0))
    train(artifacts)
    points = ProgressLog(tmp_path / "run" / PROGRESS_FILE).points()
    assert points[-1]["progress"] == 1.0
    assert points[-1]["step"] == artifacts.trainer.state.global_step >= 1


def test_autocast_trains_on_this_processor_and_is_a_fact_of_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_service.training.arguments.bf16_gain", lambda: 2.0)
    plan = small_plan(dataset, tmp_path / "run", steps=2, precision="auto")
    first = build_training_artifacts(plan)
    assert first.arguments.bf16
    monkeypatch.setattr("ml_service.training.arguments.bf16_gain", lambda: 1.0)
    resumed = build_training_artifacts(plan)
    assert resumed.arguments.bf16
    train(resumed)
    assert ProgressLog(tmp_path / "run" / PROGRESS_FILE).points()[-1]["step"] == 2
    assert not build_training_artifacts(plan.model_copy(update={"run": tmp_path / "other"})).arguments.bf16


def test_plans_are_checked_and_unknown_keys_are_named() -> None:
    with pytest.raises(ValidationError, match="exactly one of seconds, tokens or steps"):
        small_plan(steps=1, seconds=1)
    with pytest.raises(ValidationError, match="exactly one"):
        small_plan()
    with pytest.raises(ValidationError, match="lerning_rate"):
        small_plan(steps=1, lerning_rate=1)


def test_a_budget_of_tokens_is_one_of_steps_rounded_up() -> None:
    clock = TrainingClock(Budget(tokens=1001), tokens_per_step=100)
    assert clock.max_steps == 11
    assert clock.progress(11) == 1.0
    with pytest.raises(ValueError, match="positive"):
        Budget(steps=0)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    factors = [warmup_stable_decay(step / 100, 0.1, 0.4, 0.05) for step in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert set(factors[10:61]) == {1.0}
    assert factors[60:] == sorted(factors[60:], reverse=True)
    assert factors[100] == pytest.approx(0.05)
    assert warmup_stable_decay(7.0) == warmup_stable_decay(1.0)


def test_presets_have_the_sizes_that_they_claim() -> None:
    sizes = {name: count_parameters(create_model(name, 8192, 64, 0)) / 1e6 for name in ("nano", "mini", "small")}
    assert sizes == pytest.approx({"nano": 3.3, "mini": 5.2, "small": 16.1}, abs=0.2)
    with torch.device("meta"):
        assert count_parameters(create_model("1b", 50_257, 512, 0)) == 960_881_664
    for preset in PRESETS:
        assert small_plan(steps=1, preset=preset).preset == preset
    with pytest.raises(ValidationError, match="'pico', 'nano', 'mini'"):
        small_plan(steps=1, preset="huge")


def test_bf16_learns_as_fp32_does_within_noise(run: Path, dataset: Path, tmp_path: Path) -> None:
    train(build_training_artifacts(small_plan(dataset, tmp_path / "run", steps=40, precision="bf16")))
    scores = [curve(directory)[-1]["validation_code_loss"] for directory in (run, tmp_path / "run")]
    assert scores[1] == pytest.approx(scores[0], rel=0.02)


def test_accumulated_passes_learn_what_one_large_pass_does(dataset: Path, tmp_path: Path) -> None:
    for name, changes in (("one", {"batch_size": 8}), ("four", {"batch_size": 2, "accumulation": 4})):
        train(build_training_artifacts(small_plan(dataset, tmp_path / name, steps=12, **changes)))
    scores = [curve(tmp_path / name)[-1]["validation_code_loss"] for name in ("one", "four")]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


@pytest.mark.slow
def test_compiled_layers_learn_what_plain_ones_do(run: Path, dataset: Path, tmp_path: Path) -> None:
    """In a process of its own: the compiler warns of itself."""
    subprocess.run(
        [*command(dataset, tmp_path / "run"), "--set", "compile=on"], cwd=PROJECT, check=True, capture_output=True
    )
    scores = [curve(directory)[-1]["validation_code_loss"] for directory in (run, tmp_path / "run")]
    assert scores[1] == pytest.approx(scores[0], rel=1e-2)  # sums in another order, forty updates long


def test_a_tokenizer_that_is_not_the_data_sets_is_refused(dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "data")
    save_tokenizer(train_byte_level_bpe(["other"], 300), copy / TOKENIZER_FILE)
    with pytest.raises(ValueError, match="it is not its tokenizer"):
        build_training_artifacts(small_plan(copy, tmp_path / "run", steps=1))


def test_a_time_limit_ends_a_budget_of_steps(dataset: Path, tmp_path: Path) -> None:
    artifacts = build_training_artifacts(small_plan(dataset, tmp_path / "run", steps=100_000, time_limit_s=1.0))
    train(artifacts)
    assert 1 <= artifacts.trainer.state.global_step < 100_000
    assert (tmp_path / "run" / MODEL_DIRECTORY).is_dir()


def test_a_warm_start_goes_on_from_what_was_learnt_and_replays_the_old_corpus(
    run: Path, corpus: Path, dataset: Path, tmp_path: Path
) -> None:
    """New text beside a share of the old one, in the old tokenizer; judged on both."""
    (tmp_path / "new").mkdir()
    for number in range(40):
        words = " ".join(random.Random(number).choices("river stone wind the of and light under falls".split(), k=300))
        (tmp_path / "new" / f"{number}.txt").write_text(words)
    old = load_tokenizer(dataset / TOKENIZER_FILE)
    options = BuildOptions(tokenizer=old, validation_share=0.2)
    build_dataset(lambda: chain(folder(corpus), folder(tmp_path / "new")), tmp_path / "data", options)
    changes = {"steps": 20, "mixture": {"code": 0.3, "new": 0.7}, "start_from": run / MODEL_DIRECTORY}
    plan = small_plan(tmp_path / "data", tmp_path / "warm", **changes, learning_rate=1e-3, muon_learning_rate=5e-3)
    train(build_training_artifacts(plan))
    before, after = curve(run)[-1]["validation_code_loss"], curve(tmp_path / "warm")[-1]
    assert after["validation_code_loss"] < before + 0.3, "it forgot"
    cold = small_plan(tmp_path / "data", tmp_path / "cold", **(changes | {"start_from": None}))
    train(build_training_artifacts(cold))
    assert after["validation_code_loss"] < curve(tmp_path / "cold")[-1]["validation_code_loss"] - 0.5
    assert after["validation_new_loss"] < 4.0
    assert json.loads((tmp_path / "warm" / RUN_FILE).read_text())["start_weights"]


def test_a_start_that_does_not_fit_is_refused_in_words(run: Path, dataset: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run / MODEL_DIRECTORY, tmp_path / "other")
    save_tokenizer(train_byte_level_bpe(["other"], 300), other / TOKENIZER_FILE)
    for changes, error, words in (
        ({"start_from": tmp_path}, FileNotFoundError, "is no trained model"),
        ({"start_from": other}, ValueError, "another tokenizer than the data set"),
        ({"start_from": run / MODEL_DIRECTORY, "preset": "pico"}, ValueError, "another shape than the preset"),
    ):
        with pytest.raises(error, match=words):
            build_training_artifacts(small_plan(dataset, tmp_path / "run", steps=1, **changes))
    with pytest.raises(Conflict, match="began with other weights"):
        build_training_artifacts(load_plan(run).model_copy(update={"start_from": run / MODEL_DIRECTORY}))
