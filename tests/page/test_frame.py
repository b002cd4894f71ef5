"""What is around every page: navigation, themes, keys, the keyboard, a phone, a service that is away or starts anew."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ml_service.common.settings import PROJECT
from ml_service.frontend.frame import NAVIGATION
from tests.page.conftest import Watched, running_page
from tests.test_process import Server

pytestmark = pytest.mark.browser
PAGES = [(path, name) for path, name, _ in NAVIGATION]


@pytest.mark.parametrize(("path", "name"), PAGES)
def test_a_page_says_where_one_is_and_what_answers(browser: Watched, path: str, name: str) -> None:
    page = browser.visit(path)
    expect(page).to_have_title(f"{name} · ml_service")
    expect(page.locator("nav a[aria-current=page] span")).to_have_text(name)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    browser.look(f"page-{name.lower()}")


SHIFTS = """() => new Promise((done) => {
  let sum = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => (sum += entry.value)))
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 300);
})"""
MOST_SHIFT = 0.1
"""Cumulative layout shift that is called good (web.dev/cls)."""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("path", "name"), PAGES)
def test_nothing_jumps_while_a_page_fills(browser: Watched, path: str, name: str, width: int) -> None:
    browser.page.set_viewport_size({"width": width, "height": 844})
    page = browser.visit(path)
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    expect(page.locator(".bone")).to_have_count(0)
    page.wait_for_load_state("networkidle")
    shift = page.evaluate(SHIFTS)
    assert shift < MOST_SHIFT, f"{name} moves by {shift:.3f}"


@pytest.mark.parametrize(("path", "name"), PAGES)
def test_a_page_fits_a_phone(browser: Watched, path: str, name: str) -> None:
    browser.page.set_viewport_size({"width": 390, "height": 844})
    page = browser.visit(path)
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    expect(page.locator("nav a[aria-current=page]")).to_be_in_viewport(ratio=0.99)
    browser.fits(390)
    browser.look(f"phone-{name.lower()}")


def test_digits_go_to_pages_and_a_click_on_the_theme_is_kept(browser: Watched) -> None:
    page = browser.visit("/")
    page.get_by_role("heading", level=1).click()  # away from the prompt: there a digit is a digit
    page.keyboard.press("6")
    expect(page).to_have_url(re.compile("/ui/health$"))
    page.get_by_role("button", name="Dark or light").click()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.keyboard.press("3")
    expect(page).to_have_url(re.compile("/ui/data$"))
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_hidden()


def test_the_first_tab_skips_the_navigation(browser: Watched) -> None:
    page = browser.visit("/health")
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    page.keyboard.press("Tab")
    expect(page.locator(".nicegui-skip-link")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".main")).to_be_focused()


@pytest.fixture
def guarded() -> Iterator[Server]:
    server = Server(None, api_key="open sesame")
    server.client.headers["Authorization"] = "Bearer open sesame"
    yield server
    server.kill()


def test_a_key_is_asked_for_where_keys_are_on(chromium: Browser, guarded: Server) -> None:
    page = chromium.new_context().new_page()
    page.goto(f"{guarded.client.base_url}/ui/deployments".replace("//ui", "/ui"))
    expect(page.locator(".chip-name")).to_have_text("key wanted")
    expect(page.get_by_text("A key is wanted").first).to_be_visible()
    for key, told in (("a wrong one", "key wanted"), ("open sesame", "python-mini")):
        page.get_by_role("button", name="API key").click()
        page.get_by_label("Key", exact=True).fill(key)
        page.get_by_label("Key", exact=True).press("Enter")
        expect(page.locator(".chip-name")).to_have_text(told)
    page.goto(page.url)
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    assert page.evaluate("document.cookie").count("sesame") == 0
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.locator(".chip-name")).to_have_text("key wanted")
    page.context.close()


def restarted(server: Server, store: Path) -> subprocess.Popen[bytes]:
    """The same server again, on the same port."""
    command = [sys.executable, "-m", "ml_service.cli", "serve", "--port", str(server.client.base_url.port)]
    return subprocess.Popen([*command, "--store", str(store)], cwd=PROJECT, stderr=subprocess.DEVNULL)


def is_back(page: Page) -> None:
    expect(page.locator(".chip-name")).to_have_text("python-mini", timeout=20_000)
    expect(page.locator(".offline")).to_be_hidden(timeout=20_000)
    expect(page.locator("#popup")).to_be_hidden(timeout=20_000)


@pytest.mark.parametrize("is_apart", [False, True])
def test_an_open_page_survives_a_restart_of_the_service(chromium: Browser, tmp_path: Path, is_apart: bool) -> None:
    server = Server(None, store=str(tmp_path))
    address = str(server.client.base_url).rstrip("/")
    page = chromium.new_context().new_page()
    if is_apart:
        with running_page(address) as apart:
            _goes_on(page, apart, server, tmp_path)
    else:
        _goes_on(page, address, server, tmp_path)
    page.context.close()


def _goes_on(page: Page, address: str, server: Server, store: Path) -> None:
    page.goto(f"{address}/ui/")
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    server.process.kill()
    server.process.wait()
    expect(page.locator(".offline, #popup").filter(visible=True).first).to_be_visible(timeout=20_000)
    again = restarted(server, store)
    try:
        is_back(page)
    finally:
        again.kill()
        again.wait()
        server.kill()
