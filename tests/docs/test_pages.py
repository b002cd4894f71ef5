"""Every command of the README and docs/ is run, page by page, from top to bottom, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_service.common.settings import PROJECT
from tests.docs.blocks import Block, blocks_of, pages
from tests.docs.test_blocks import API, routes_of
from tests.docs.world import World

_NOT_COUNTED = {("GET", "/metrics"), ("GET", "/metrics/{experiment_id}")}
"""Nobody counts who asks for them."""
_RUN = {page: [block for block in blocks_of(page) if block.is_run] for page in pages()}
_FAST = [page for page, blocks in _RUN.items() if any(not block.is_slow for block in blocks)]
_SLOW = [page for page, blocks in _RUN.items() if any(block.is_slow for block in blocks)]


def _name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("page")


@pytest.mark.parametrize("page", _FAST, ids=_name)
def test_the_commands_of_a_page_work(page: Path, root: Path) -> None:
    _try(page, [block for block in _RUN[page] if not block.is_slow], root)


@pytest.mark.slow
@pytest.mark.parametrize("page", _SLOW, ids=_name)
def test_all_commands_of_a_page_work(page: Path, root: Path, request: pytest.FixtureRequest) -> None:
    _try(page, _RUN[page], root, request)


def _try(page: Path, blocks: list[Block], root: Path, request: pytest.FixtureRequest | None = None) -> None:
    wants_database = any("DOCS_DATABASE" in block.tried for block in blocks)
    database = request.getfixturevalue("cluster").create() if request and wants_database else None
    world = World(root, page, database)
    try:
        for block in blocks:
            world.try_block(block)
        assert not world.answered("5..")
        if page == API and request is not None:
            answered = world.answered("2..")
            rarely = {route for route in routes_of(root / "other") - _NOT_COUNTED if answered.get(route, 0) < 2}
            assert not rarely, sorted(rarely)  # once by curl, once by Python
    finally:
        world.end()
