"""The house's own rules: imports, captions, sizes, documented settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from lib.captions import caption_of, tree, with_printed, with_tree
from lib.settings_table import MARK, sentences, settings_table
from ml_service.common.settings import PROJECT, Settings

TREE = ("lib", "ml_service", "benchmarks", "tests")
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md"))]
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


def test_the_tree_on_the_page_of_the_architecture_is_the_files_captions() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert with_tree(page, tree(PROJECT, TREE)) == page, "run `make fix`: it prints the tree anew"


def test_the_page_of_the_settings_is_what_their_definitions_say() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")
    printed = with_printed(page, MARK, settings_table(Settings, PROJECT))
    assert printed == page, "run `make fix`: it prints the settings anew"


class Silent(BaseSettings):
    """Settings of which nothing is said."""

    slots: int = 3


def test_a_setting_without_a_sentence_is_told() -> None:
    with pytest.raises(ValueError, match="nothing is said of slots"):
        sentences(Silent)


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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text(encoding="utf-8")):
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub names them: in lower case, spaces as hyphens, without punctuation."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


def test_readme_leads_to_every_page() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert not [path.name for path in PAGES if path.parent.name == "docs" and f"(docs/{path.name})" not in readme]


def test_the_page_of_the_architecture_has_every_command_of_make() -> None:
    commands = re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in commands if f"`make {name}`" not in page] == ["help"]


def test_a_tree_without_a_place_is_told() -> None:
    with pytest.raises(ValueError, match="no place"):
        with_tree("nothing", "tree")
