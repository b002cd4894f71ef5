"""The house's own rules: imports, captions, sizes, documented settings."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib.captions import caption_of, tree, with_tree
from ml_service.common.settings import PROJECT, Settings

TREE = ("lib", "ml_service", "benchmarks", "tests")
README = (PROJECT / "README.md").read_text(encoding="utf-8")
SOURCES = sorted(path for folder in TREE for path in (PROJECT / folder).rglob("*.py"))
WRITTEN = [path for path in SOURCES if "versions" not in path.parts]  # migrations are generated


def test_a_process_that_imports_the_app_has_no_torch() -> None:
    code = "import sys, ml_service.backend.app, ml_service.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    loaded = set(done.stdout.split())
    assert "ml_service.inference.decode_loop" in loaded
    assert not loaded & {"torch", "transformers", "pyarrow", "matplotlib", "cv2", "rapidocr", "PIL"}


def test_nothing_happens_on_import() -> None:
    code = "import threading, ml_service.backend.app, ml_service.cli; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "1"


def test_the_readmes_tree_is_the_files_captions() -> None:
    assert with_tree(README, tree(PROJECT, TREE)) == README, "run `make fix`: it prints the tree anew"


def test_every_setting_is_documented_where_it_is_defined_and_in_the_readme() -> None:
    source = ast.parse((PROJECT / "ml_service/common/settings.py").read_text())
    (body,) = [node.body for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    documented = {
        first.target.id
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
    }
    assert documented == set(Settings.model_fields)
    for name in Settings.model_fields:
        assert f"`ML_SERVICE_{name.upper()}`" in README


def test_an_unknown_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_SERVICE_SLOTZ", "3")
    done = subprocess.run(
        [sys.executable, "-m", "ml_service.cli", "serve"], capture_output=True, text=True, cwd=PROJECT
    )
    assert done.returncode == 1
    assert "ML_SERVICE_SLOTZ" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_file_has_a_caption_and_is_not_two_files(path: Path) -> None:
    assert len(caption_of(path)) <= 118
    assert len(path.read_text().splitlines()) <= 300


def test_every_relative_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (PROJECT / target).exists(), target


def test_a_tree_without_a_place_is_told() -> None:
    with pytest.raises(ValueError, match="no place"):
        with_tree("nothing", "tree")
