"""The pipeline's stages from files to files, without DVC and with it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ml_service.common.errors import Conflict
from ml_service.common.settings import PROJECT
from ml_service.pipeline.parameters import Parameters, load_parameters
from ml_service.pipeline.pipeline import STAGES, run_stage
from ml_service.pipeline.stages import verify_bundle


def small(corpus: Path, steps: int = 12) -> dict[str, dict[str, object]]:
    return {
        "extract_data": {
            "stdlib": False, "folders": [str(corpus)], "vocabulary_size": 512, "validation_share": 0.2,
        },
        "train_model": {
            "preset": "pico", "steps": steps, "window": 64, "batch_size": 8, "validation_tokens": 1024,
            "evaluations": 2, "precision": "fp32",
        },
        "export_model": {"precision": "int8"},
        "inference_model": {"max_new_tokens": 8, "max_bytes": 5000, "prompts": ["def value", "return "]},
    }  # fmt: skip


def test_the_stages_end_with_a_bundle_its_scores_curves_and_samples(corpus: Path, tmp_path: Path) -> None:
    parameters = Parameters(**small(corpus))
    for stage in STAGES:
        run_stage(stage, parameters, tmp_path, fresh=False)
    verify_bundle(tmp_path / "bundle")
    training = json.loads((tmp_path / "training.json").read_text())
    assert training["steps"] == 12
    scores = json.loads((tmp_path / "scores.json").read_text())["code"]
    assert scores["bits_per_byte"] == pytest.approx(training["validation_code_bits_per_byte"], rel=0.1)
    assert scores["bytes"] >= 5000
    rows = list(csv.DictReader((tmp_path / "validation.csv").read_text().splitlines()))
    assert [row["source"] for row in rows] == ["code", "code"]
    assert float(rows[-1]["bits_per_byte"]) == training["validation_code_bits_per_byte"]
    assert list(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    samples = (tmp_path / "samples.md").read_text()
    assert "```\ndef value" in samples
    assert "```\nreturn " in samples
    # Another recipe in the same place is refused, or replaces the run where that is wanted.
    others = Parameters(**small(corpus, steps=4))
    with pytest.raises(Conflict, match="another plan"):
        run_stage("train_model", others, tmp_path, fresh=False)
    run_stage("train_model", others, tmp_path, fresh=True)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 4


def test_parameters_are_checked_and_the_shipped_ones_are_right(tmp_path: Path) -> None:
    shipped = load_parameters(PROJECT / "params.yaml")
    assert shipped.train_model["preset"] == "nano"
    for text, error in (
        ("extract_data: {vocabulary: 3}", ValidationError),
        ("- a list", ValueError),
        ("a: [", ValueError),
    ):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(error):
            load_parameters(tmp_path / "params.yaml")
    with pytest.raises(FileNotFoundError, match=r"params\.yaml is missing"):
        load_parameters(tmp_path / "nothing" / "params.yaml")
    assert Parameters() == Parameters(**(yaml.safe_load("{}") or {}))


@pytest.mark.slow
def test_dvc_repeats_what_changed_and_shows_the_difference(corpus: Path, tmp_path: Path) -> None:
    """From a clone of the working tree, with this environment's `dvc` and `ml-service`."""
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns(".venv", "store", ".git", "cache", "tmp", "*_cache", "__pycache__")
    shutil.copytree(PROJECT, clone, ignore=ignored)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    author = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def run(*words: str) -> str:
        done = subprocess.run(
            words, cwd=clone, env=os.environ | author | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    (clone / "params.yaml").write_text(yaml.safe_dump(small(corpus)))
    run("git", "init", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "begin")
    told = run("dvc", "repro")
    assert [stage for stage in STAGES if f"stage '{stage}'" in told] == list(STAGES)
    run("git", "add", "dvc.lock")
    run("git", "commit", "-qm", "first")
    assert "up to date" in run("dvc", "repro")
    (clone / "params.yaml").write_text(yaml.safe_dump(small(corpus, steps=24)))
    assert "'extract_data' didn't change" in run("dvc", "repro")
    difference = {
        name: change
        for metrics in json.loads(run("dvc", "metrics", "diff", "--json")).values()
        for name, change in metrics.items()
    }
    assert (difference["steps"]["old"], difference["steps"]["new"]) == (12, 24)
    assert difference["code.bits_per_byte"]["diff"] < 0
    assert "train_loss" in run("dvc", "plots", "show", "--json")
