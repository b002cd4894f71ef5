"""The blocks of the pages without running them: each is marked or run, parses, and shows what there is."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ml_service.backend.app import create_app
from ml_service.common.settings import PROJECT, Settings
from tests.docs.blocks import COMMANDS, DATA, SHOWN, Block, blocks_of, pages
from tests.docs.shapes import differences, values_in

API = PROJECT / "docs" / "api.md"
_TITLE = re.compile(r"^#{2,4} (.*)$", re.MULTILINE)
_OPENAI = {
    "/v1/models": "models.list",
    "/v1/models/{name}": "models.retrieve",
    "/v1/completions": "completions.create",
    "/v1/chat/completions": "chat.completions.create",
}
_NAME = re.compile(r"`([a-z0-9_]+)(?:\{[a-z_,]+\})?`")
_PREFIX = "ml_service_"
_ROUTE = re.compile(r"`(GET|POST|PUT|DELETE) (/[^`]*)`")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_block_says_what_it_is_and_parses(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in (*COMMANDS, *DATA, *SHOWN), f"{block.place}: {block.language or 'no language'}"
        if block.language == "bash":
            done = subprocess.run(["bash", "-n"], input=block.tried, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block.place}: {done.stderr}"
        elif block.language == "python" and not block.not_run:
            ast.parse(block.tried, block.place)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)


def test_most_commands_are_run() -> None:
    commands = [block for page in pages() for block in blocks_of(page) if block.language in COMMANDS]
    not_run = [f"{block.place}: {block.not_run}" for block in commands if block.not_run]
    print(*not_run, sep="\n")  # `pytest -s` lists them
    assert len(not_run) < len(commands) / 5


@pytest.mark.parametrize(("comment", "problem"), [("not run: GPU", "is no reason"), ("slwo", "nobody knows")])
def test_a_mark_that_says_nothing_is_refused(tmp_path: Path, comment: str, problem: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {comment} -->\n```bash\ntrue\n```\n")
    with pytest.raises(ValueError, match=problem):
        blocks_of(page)


def test_marks_say_how_a_block_is_tried(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- slow; "300" as "5" -->\n```bash\nsleep 300\n```\n\n```json\n{}\n```\n'
        "<!-- refused: 404 -->\n```bash\ncurl localhost:8000/nowhere\n```\nand\n```json\n[]\n```\n"
    )
    sleeps, answer, refused, other = blocks_of(page)
    assert (sleeps.is_slow, sleeps.tried, sleeps.answer) == (True, "sleep 5\n", answer)
    assert (refused.refused, refused.answer, other.line) == (404, None, 14)


def test_every_route_is_in_the_api_page_with_curl_and_python_and_none_too_many(tmp_path: Path) -> None:
    sections = _sections(API)
    assert {route for title in sections for route in _routes(title)} == routes_of(tmp_path)
    for title, blocks in sections.items():
        for method, path in _routes(title):
            languages = {block.language for block in blocks if _asks(block, method, path)}
            assert languages == {"bash", "python"}, f"{method} {path}"


def routes_of(store: Path) -> set[tuple[str, str]]:
    """Method and path of all that the OpenAPI document tells of."""
    paths = create_app(Settings(store=store)).openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def _routes(title: str) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in _ROUTE.finditer(title)]


def _sections(page: Path) -> dict[str, list[Block]]:
    """Title → the commands that stand between it and the next one."""
    text = page.read_text(encoding="utf-8")
    begins = [(text.count("\n", 0, found.start()) + 1, found[1]) for found in _TITLE.finditer(text)]
    ends = [line for line, _ in begins[1:]] + [text.count("\n") + 1]
    commands = [block for block in blocks_of(page) if block.language in COMMANDS]
    return {
        title: [block for block in commands if begin < block.line < end]
        for (begin, title), end in zip(begins, ends, strict=True)
    }


def _asks(block: Block, method: str, path: str) -> bool:
    """Whether it asks for the path; OpenAI's client has words of its own for some."""
    if block.language == "python" and path in _OPENAI:
        return _OPENAI[path] in block.text
    address = re.sub(r"\\{\w+\\}", r"[^/\\s\"'?]+", re.escape(path)) + r"(?![\w/.])"
    says_method = method in ("GET", "POST") or re.search(rf"-X {method}|\.{method.lower()}\(", block.text)
    return bool(says_method and re.search(address, block.text))


def test_the_page_of_compose_names_every_service_port_and_variable() -> None:
    page = (PROJECT / "docs" / "compose.md").read_text(encoding="utf-8")
    stack = (PROJECT / "docker-compose.yml").read_text(encoding="utf-8")
    names = [*yaml.safe_load(stack)["services"], *set(re.findall(r"\$\{([A-Z_]+)", stack))]
    ports = re.findall(r"127\.0\.0\.1:\$\{[A-Z_]+:-(\d+)\}", stack)
    missing = [name for name in names if f"`{name}`" not in page]
    assert not missing + [port for port in ports if f"127.0.0.1:{port}" not in page]


def test_the_page_of_the_metrics_names_what_there_is(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = set(_NAME.findall(page))
    families = list(create_app(Settings(store=tmp_path)).state.telemetry.registry.collect())
    ours = [family for family in families if family.name.startswith(_PREFIX)]
    there = {family.name.removeprefix(_PREFIX) + ("_total" if family.type == "counter" else "") for family in ours}
    assert len(there) > 20
    assert there <= named, sorted(there - named)
    shown = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in _NAME.findall(row)}
    assert shown <= there, sorted(shown - there)


def test_shapes_differ_where_names_or_kinds_do() -> None:
    assert not differences({"a": 1, "b": [{"c": "x"}]}, {"a": 2.5, "b": [{"c": "y"}, {"c": 1}]})
    assert not differences({"a": 1, "…": "…"}, {"a": 2, "b": 3})
    assert not differences({"a": None}, {"a": [1]})
    assert len(differences({"a": 1, "b": 2}, {"a": "1", "c": 2})) == 3
    assert differences([{"a": 1}], [{"a": True}])


def test_values_are_found_among_other_lines() -> None:
    assert values_in('HTTP/1.1 200\n{"a": [1]}\nand {no} [2]') == [{"a": [1]}, [2]]
