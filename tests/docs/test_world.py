"""The runner of pages itself: what fails is told, and what is refused on purpose must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import OWN_SERVER, blocks_of
from tests.docs.world import World

_ANSWERS = "<!-- background -->\n```bash\npython -m http.server $ML_SERVICE_PORT 2> /dev/null\n```\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose server is Python's own; it answers 404 in HTML to what it has not."""
    page = tmp_path / "page.md"
    page.write_text(OWN_SERVER)
    world = World(tmp_path, page)
    yield world
    world.end()


def run(world: World, tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    for block in blocks_of(page):
        if block.is_run:
            world.try_block(block)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("```bash\nfalse | true\n```\n", "false | true"),
        ("```python\nraise KeyError('a')\n```\n", "KeyError"),
        ('```bash\necho \'{"a": 1}\'\n```\n\n```json\n{"b": 1}\n```\n', r"\$.b is shown and is not there"),
        ("```bash\ntrue\n```\n\n```json\n{}\n```\n", "shows an answer and prints none"),
        (f"{_ANSWERS}```bash\ncurl -s localhost:8000/nowhere\n```\n", "nowhere"),
        (f"{_ANSWERS}```python\nimport httpx\nhttpx.get('http://localhost:8000/nowhere')\n```\n", "404"),
        (f"{_ANSWERS}<!-- refused: 404 -->\n```bash\ncurl -s localhost:8000/params.yaml\n```\n", "was not refused"),
        ('<!-- "300" as "5" -->\n```bash\nsleep 30\n```\n', "there is no '300'"),
    ],
)
def test_what_does_not_work_is_told(world: World, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        run(world, tmp_path, text)


def test_what_works_passes_and_blocks_build_on_each_other(world: World, tmp_path: Path) -> None:
    run(
        world,
        tmp_path,
        f"{_ANSWERS}```python\nimport httpx\na = 1\n```\n"
        "```python\nassert a == 1\nprint([a])\n```\n\n```json\n[2]\n```\n"
        "```bash\ncurl -s localhost:8000/params.yaml > copy.yaml\n```\n```bash\ntest -s copy.yaml\n```\n"
        '<!-- "sleep 300" as "sleep 0" -->\n```bash\nsleep 300\n```\n',
    )
