"""Who answers on the playground: two side by side, one that is not deployed, nobody yet."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from playwright.sync_api import Browser, expect

from tests.page.conftest import Watched, running_page
from tests.page.playground import PROMPT, answer, copied, done_by, expect_done, greedy, run
from tests.test_process import Server

pytestmark = pytest.mark.browser


def test_two_models_answer_one_prompt_side_by_side(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    page.get_by_role("switch", name="Compare two").click()
    second = page.get_by_label("Second answer", exact=True)
    second.get_by_label("Model").click()
    page.get_by_role("option", name="#1 python-mini").click()
    run(page, max_new_tokens="16")
    expect_done(page)
    expect(second.get_by_text("Reached the most tokens that were allowed.")).to_be_visible(timeout=20_000)
    whole = greedy(service, PROMPT, max_new_tokens=16)
    assert answer(page).text_content() == whole
    assert second.get_by_role("group", name="arrow keys").text_content() == whole
    browser.look("playground-compare")


def test_an_experiment_that_is_not_deployed_is_opened_to_be_compared(
    chromium: Browser, bundle: Path, tmp_path: Path
) -> None:
    Server(None, store=str(tmp_path)).stop()
    service = Server(bundle, store=str(tmp_path))
    watched = Watched(chromium.new_context().new_page(), str(service.client.base_url).rstrip("/"))
    try:
        page = watched.visit("/")
        page.get_by_role("switch", name="Compare two").click()
        second = page.get_by_label("Second answer", exact=True)
        expect(second.get_by_label("Model")).to_have_value("#1 python-mini")
        run(page, max_new_tokens="12")
        expect(second.get_by_text("#1 python-mini, int8")).to_be_visible(timeout=30_000)
        expect_done(page)
        shown = second.get_by_role("group", name="arrow keys").text_content()
        assert shown == greedy(service, PROMPT, max_new_tokens=12, model="1")
        assert shown != answer(page).text_content() == greedy(service, PROMPT, max_new_tokens=12)
        assert not watched.wrong, watched.wrong
    finally:
        watched.page.context.close()
        service.kill()


class _NoModelYet(BaseHTTPRequestHandler):
    """A service that runs and has nothing to answer with."""

    openapi: ClassVar[bytes] = b""
    said: ClassVar[dict[str, object]] = {
        "/deployments": {"generation": 0, "active": None, "previous": None, "shadow": None, "canary": None},
        "/experiments": {"experiments": []},
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._answer(200, self.openapi if path == "/openapi.json" else json.dumps(self.said[path]).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(503, b'{"detail": "no model is deployed yet", "status": 503}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_without_a_model_the_page_tells_the_next_step(chromium: Browser, service: Server) -> None:
    _NoModelYet.openapi = service.client.get("/openapi.json").content
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoModelYet) as backend:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        with running_page(f"http://127.0.0.1:{backend.server_port}") as address:
            watched = Watched(chromium.new_context().new_page(), address)
            page = watched.visit("/")
            expect(page.get_by_role("heading", name="No model answers yet")).to_be_visible()
            steps = page.get_by_role("list").filter(has_text="Add data").get_by_role("link")
            expect(steps).to_have_text(["Add data", "Train a model", "Deploy it"])
            run(page)
            alert = page.get_by_label("Answer", exact=True).get_by_role("alert")
            expect(alert).to_have_text(re.compile("No model is deployed yet."))
            watched.look("playground-first-run")
            watched.page.context.close()
        backend.shutdown()


def test_a_page_of_its_own_tells_where_the_service_is(chromium: Browser, service: Server) -> None:
    with running_page(str(service.client.base_url)) as address:
        watched = Watched(chromium.new_context().new_page(), address)
        page = watched.visit("/")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        run(page, max_new_tokens="8")
        expect_done(page)
        shown = answer(page).text_content()
        assert json.loads(done_by(["sh", "-c", copied(page, "curl")]))["prediction"] == shown
        page.context.close()
