"""The command line: help that teaches, verbs that work together, errors in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ml_service.common.errors import NotFound
from ml_service.common.settings import PROJECT
from ml_service.data.bundles import Bundles

VERBS = (
    "", "serve", "train", "export", "generate", "bundle", "bundle verify", "bundle show", "corpus", "corpus build",
    "data add", "retrain", "experiments", "experiments list", "experiments compare", "worker", "deploy", "rollback",
    "deployments", "feedback export", "audit verify", "retention", "migrate",
)  # fmt: skip


def cli(*words: str, code: int = 0, standard_input: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ml_service.cli", *words],
        cwd=PROJECT, capture_output=True, text=True, input=standard_input, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    text = cli(*verb.split(), "--help")
    assert "Usage:" in text
    if verb in ("serve", "train", "export", "generate", "corpus build"):
        assert f"Example: ml-service {verb}" in text


def test_a_bundle_is_shown_and_verified(bundle: Path) -> None:
    assert '"precision": "int8"' in cli("bundle", "show", str(bundle))
    assert "has proved itself" in cli("bundle", "verify", str(bundle))


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_generate_continues_a_prompt_from_the_argument_or_standard_input(bundle_fp32: Path, runtime: str) -> None:
    options = ("--bundle", str(bundle_fp32), "--runtime", runtime, "--max-new-tokens", "8")
    text = cli("generate", "def value_total", *options)
    assert text.startswith("def value_total")
    assert len(text) > len("def value_total\n")
    assert cli("generate", "-", *options, standard_input="def value_total") == text


def test_a_corpus_is_built_from_a_folder_and_shown(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    arguments = ("--no-stdlib", "--folder", str(corpus), "--vocabulary-size", "300", "--validation-share", "0.2")
    built = cli("corpus", "build", str(output), *arguments)
    assert "fingerprint" in built
    assert cli("corpus", "show", str(output)) == built


def test_errors_are_one_clear_line(tmp_path: Path, dataset: Path) -> None:
    assert "is no data set" in cli("corpus", "show", str(tmp_path), code=1)
    train = ("train", str(tmp_path / "r"), "--data", str(dataset))
    assert "exactly one of seconds, tokens or steps" in cli(*train, code=1)
    assert "sped" in cli(*train, "--steps", "1", "--set", "sped=1", code=1)
    assert "'nano', 'mini'" in cli(*train, "--steps", "1", "--set", "preset=huge", code=1)
    assert "is no run" in cli("export", str(tmp_path), str(tmp_path / "b"), code=1)
    assert "there is no bundle" in cli("generate", "x", "--bundle", str(tmp_path / "b"), code=1)
    assert "does not exist" in cli(
        "corpus", "build", str(tmp_path / "c"), "--no-stdlib", "--folder", str(tmp_path / "x"), code=1
    )


def test_a_bundle_of_the_store_is_found_by_its_name(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundles" / "first"
    root.mkdir(parents=True)
    bundles = Bundles(tmp_path)
    assert bundles.names() == []
    (root / "manifest.json").write_text("{}")
    assert bundles.find(Path("first")) == root
    assert bundles.find(bundle) == bundle
    with pytest.raises(NotFound, match="the store has first"):
        bundles.find(Path("second"))
