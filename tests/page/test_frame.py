"""What is around every page: navigation, themes, keys of the keyboard, and no request to anybody else."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ml_service.frontend.frame import NAVIGATION
from tests.page.conftest import Watched

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, name, _ in NAVIGATION])
def test_a_page_says_where_one_is(browser: Watched, path: str, name: str) -> None:
    page = browser.visit(path)
    expect(page).to_have_title(f"{name} · ml_service")
    expect(page.locator("nav a[aria-current=page] span")).to_have_text(name)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".chip-name")).to_have_text("python-mini")
