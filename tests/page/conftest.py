"""A service with the shipped model, its page, and a browser that tells of everything that is wrong."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from ml_service.common.settings import PROJECT
from tests.test_process import Server

SCREENSHOTS = PROJECT / "build" / "screenshots"
_RULES = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


class Watched:
    """A page of a browser, and what went wrong on it."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.wrong: list[str] = []
        self._host = urlsplit(base).netloc
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("console", self._heard)
        page.on("request", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self._host:
            self.wrong.append(f"asked another host: {request.url}")

    def visit(self, path: str) -> Page:
        """Open a page of the service, such as `/data`."""
        self.page.goto(f"{self.base}/ui{path}")
        return self.page

    def look(self, name: str) -> None:
        """Keep screenshots in both themes, and find nothing that WCAG's levels A and AA forbid; `name` is a story's."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            self.page.wait_for_timeout(350)  # colours fade into each other
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", full_page=True)
            seen = ".q-dialog" if self.page.locator(".q-dialog").count() else None  # nobody can get behind a dialog
            found = Axe().run(self.page, context=seen, options=_RULES)
            assert found.violations_count == 0, f"{name}, {scheme}: {found.generate_report()}"

    def fits(self, width: int = 390) -> None:
        """At this width nothing of the page lies beyond its right edge."""
        self.page.set_viewport_size({"width": width, "height": 844})
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width


@contextmanager
def running_page(backend: str) -> Iterator[str]:
    """`ml-service page` on a free port; where it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ml_service.cli", "page", "--backend", backend, "--port", str(port)]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < deadline, "the page does not start"
            time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    """The real service with the shipped model and a store of its own, for the tests of one file."""
    server = Server(None)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def page_address(service: Server) -> str:
    """Where the page of the service is: with it, at `/ui`."""
    return str(service.client.base_url).rstrip("/")


@pytest.fixture
def browser(chromium: Browser, page_address: str) -> Iterator[Watched]:
    """A fresh browser on the page. The test fails where a script does, and where another host is asked."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    watched = Watched(context.new_page(), page_address)
    yield watched
    context.close()
    assert not watched.wrong, watched.wrong
