"""The deployments page's stories: replace, roll back, canary and shadow under load, refusals, a click too many."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import onnx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from lib.files import sha256_of_file
from ml_service.common.bundle import GRAPH_FILE, MANIFEST_FILE, load_manifest, metadata_props
from ml_service.common.settings import PROJECT
from ml_service.data.database import Database
from ml_service.data.experiments import Experiments
from tests.page.conftest import Watched, running_page
from tests.test_process import Server

pytestmark = pytest.mark.browser
SHIPPED, TWIN, BROKEN = 1, 2, 3
"""Experiments: the shipped model, the same under another name and with better scores, and one with damaged files."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(None, watch_requests="20")
    bundles, database = tmp_path_factory.mktemp("bundles"), Database(None, server.store)
    experiments = Experiments(database, server.store)
    try:
        for name, number in (("twin", TWIN), ("broken", BROKEN)):
            assert experiments.import_bundle(renamed(bundles / name), "tests").id == number
        (bundles / "broken" / GRAPH_FILE).write_bytes(b"no graph")
        yield server
    finally:
        database.close()
        server.kill()


def renamed(bundle: Path) -> Path:
    """The shipped bundle under another name."""
    shutil.copytree(PROJECT / "data" / "bundle", bundle)
    manifest = load_manifest(bundle)
    better = {name: 0.9 * value for name, value in manifest.metrics.items()}
    manifest = manifest.model_copy(update={"experiment": bundle.name, "metrics": better})
    graph = onnx.load(str(bundle / GRAPH_FILE))
    onnx.helper.set_model_props(graph, metadata_props(manifest))
    onnx.save(graph, str(bundle / GRAPH_FILE))
    files = manifest.files | {GRAPH_FILE: sha256_of_file(bundle / GRAPH_FILE)}
    (bundle / MANIFEST_FILE).write_text(manifest.model_copy(update={"files": files}).model_dump_json(), "utf-8")
    return bundle


@pytest.fixture(autouse=True)
def _begin_with_the_shipped_model(service: Server) -> None:
    if told(service)["active"]["experiment_id"] != SHIPPED or told(service)["canary"] or told(service)["shadow"]:
        service.client.post(f"/deploy/{SHIPPED}").raise_for_status()


def told(service: Server) -> Any:
    return service.client.get("/deployments").raise_for_status().json()


def ask(service: Server, requests: int) -> None:
    """With ids of their own, so that a canary has its share; some at a time, as under load."""

    def one(number: int) -> None:
        body = {"text": "import os\n", "max_new_tokens": 12, "temperature": 0}
        service.client.post("/forward", json=body, headers={"X-Request-ID": f"story-{number}"}).raise_for_status()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(requests)))


def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog")


def choose(page: Page, name: str, strategy: str = "replace") -> None:
    """Open the form and fill it."""
    page.get_by_role("button", name="Deploy").click()
    dialog(page).get_by_label("Experiment").fill(name)
    page.get_by_role("option", name=name).click()
    dialog(page).get_by_role("radio", name=strategy).click()


def deploy(page: Page, outcome: str) -> None:
    """From the filled form to its outcome."""
    dialog(page).get_by_role("button", name="Go on").click()
    dialog(page).get_by_role("button", name="Deploy").click()
    expect(dialog(page).get_by_text(outcome)).to_be_visible(timeout=20_000)


def card(page: Page, title: str) -> Locator:
    return page.locator(".card", has=page.get_by_role("heading", name=title))


def test_what_is_deployed_answers_and_roll_back_brings_the_old_one_again(browser: Watched, service: Server) -> None:
    page = browser.visit("/deployments")
    expect(card(page, "Answers now").get_by_role("link", name="python-mini")).to_be_visible()
    expect(card(page, "Answers now")).to_contain_text("5.2M parameters, int8")
    choose(page, "twin")
    expect(dialog(page).get_by_role("row", name="validation stdlib bits per byte")).to_contain_text("10.0 % better")
    dialog(page).get_by_label("Why").fill("better on <b>both</b>")
    browser.look("deployments-form")
    dialog(page).get_by_role("button", name="Go on").click()
    expect(dialog(page)).to_contain_text("answers everybody from now on, in place of python-mini (experiment 1)")
    browser.look("deployments-confirm")
    dialog(page).get_by_role("button", name="Deploy").click()
    expect(dialog(page)).to_contain_text("twin (experiment 2) answers now", timeout=20_000)
    dialog(page).get_by_role("button", name="Close").click()
    expect(page.locator(".chip-name")).to_have_text("twin")
    expect(card(page, "Answers now").get_by_role("link", name="twin")).to_be_visible()
    expect(card(page, "Answers now")).to_contain_text("better on <b>both</b>")
    expect(card(page, "Before it").get_by_role("link", name="python-mini")).to_be_visible()
    expect(card(page, "Under watch: twin (experiment 2)")).to_contain_text("Watched for 1 min more at least")
    assert service.client.get("/metadata").json()["experiment"] == "twin"

    page.get_by_role("button", name="Roll back").click()
    expect(dialog(page)).to_contain_text("python-mini (experiment 1)")
    expect(dialog(page)).to_contain_text("answers again in place of twin (experiment 2)")
    browser.look("deployments-rollback")
    dialog(page).get_by_role("button", name="Roll back").click()
    expect(page.locator(".chip-name")).to_have_text("python-mini")
    expect(card(page, "Answers now").get_by_role("link", name="python-mini")).to_be_visible()
    expect(card(page, "History").get_by_role("row").nth(1)).to_contain_text("rollback")
    assert service.client.get("/metadata").json()["experiment"] == "python-mini"


def test_a_canary_shows_old_and_new_under_load_and_is_promoted(browser: Watched, service: Server) -> None:
    page = browser.visit("/deployments")
    choose(page, "twin", "canary")
    dialog(page).get_by_role("slider").fill("50")
    expect(dialog(page)).to_contain_text("It answers 50 % of the requests")
    deploy(page, "twin (experiment 2) answers 50 % of the requests now")
    dialog(page).get_by_role("button", name="Close").click()
    canary = card(page, "Canary: twin (experiment 2)")
    expect(canary).to_contain_text("50 % of the requests. Watched until it ends.")
    for _ in range(3):
        ask(service, 100)
        page.wait_for_timeout(2100)  # the page looks every two seconds
    expect(canary.locator(".bar-line", has_text="canary").nth(1)).to_contain_text("ms", timeout=20_000)
    expect(canary.locator(".bar-line", has_text="active").nth(0)).to_contain_text("0.0 %")
    for name in ("Requests that fail", "Between tokens"):
        expect(canary.get_by_role("img", name=name)).to_be_visible(timeout=30_000)
    expect(canary).to_contain_text("requests of the new one, 0 of the latest failed")
    browser.look("deployments-canary")
    browser.fits()
    browser.look("deployments-phone")
    canary.get_by_role("button", name="Let it answer all").click()
    expect(dialog(page)).to_contain_text("The canary, twin (experiment 2), ends with that.")
    dialog(page).get_by_role("button", name="Let it answer all").click()
    expect(page.locator(".chip-name")).to_have_text("twin")
    expect(canary).to_have_count(0)
    expect(card(page, "History").get_by_role("row").nth(2)).to_contain_text("promoted")


def test_a_shadow_tells_how_far_it_agrees_until_it_ends(browser: Watched, service: Server) -> None:
    page = browser.visit("/deployments")
    choose(page, "twin", "shadow")
    deploy(page, "twin (experiment 2) is the shadow now")
    dialog(page).get_by_role("button", name="Close").click()
    shadow = card(page, "Shadow: twin (experiment 2)")
    expect(shadow).to_contain_text("Nothing compared yet")
    for _ in range(2):
        ask(service, 10)
        page.wait_for_timeout(2100)  # it rests between two answers, for nobody waits for it
    expect(shadow.locator(".bar-line", has_text="the very same answer")).to_contain_text("100.0 %", timeout=20_000)
    expect(shadow.locator(".bar-line", has_text="shadow").first).to_contain_text("ms")
    expect(shadow.get_by_role("img", name="Agreement")).to_be_visible(timeout=30_000)
    browser.look("deployments-shadow")
    shadow.get_by_role("button", name="End the shadow").click()
    dialog(page).get_by_role("button", name="End the shadow").click()
    expect(shadow).to_have_count(0)
    assert told(service)["shadow"] is None
    expect(card(page, "History").get_by_role("row").nth(1)).to_contain_text("ended")


def test_an_address_names_what_to_deploy_and_a_double_click_deploys_once(browser: Watched, service: Server) -> None:
    before = len(told(service)["history"])
    page = browser.visit(f"/deployments?deploy={TWIN}")
    expect(dialog(page).get_by_label("Experiment")).to_have_value("2 · twin")
    dialog(page).get_by_role("button", name="Go on").click()
    dialog(page).get_by_role("button", name="Deploy").dblclick()
    expect(dialog(page)).to_contain_text("twin (experiment 2) answers now", timeout=20_000)
    assert len(told(service)["history"]) == before + 1
    page.keyboard.press("Enter")  # what closes it has the focus
    expect(dialog(page)).to_have_count(0)
    expect(page).to_have_url(f"{browser.base}/ui/deployments")


def test_a_refusal_is_told_in_the_services_words_and_kept(browser: Watched) -> None:
    page = browser.visit(f"/deployments?deploy={BROKEN}")
    deploy(page, "Not deployed.")
    said = dialog(page).get_by_role("alert")
    expect(said).to_contain_text("its SHA-256 differs")
    browser.look("deployments-refused")
    dialog(page).get_by_role("button", name="Back").click()
    expect(dialog(page).get_by_label("Experiment")).to_have_value("3 · broken")
    dialog(page).get_by_role("button", name="Cancel").click()
    row = card(page, "History").get_by_role("row").nth(1)
    expect(row).to_contain_text("refused")
    expect(row).to_contain_text("its SHA-256 differs")
    expect(page.locator(".chip-name")).to_have_text("python-mini")


def test_an_unknown_experiment_is_told_of_and_a_form_is_left_alone(browser: Watched, service: Server) -> None:
    page = browser.visit("/deployments?deploy=99")
    expect(dialog(page)).to_contain_text("There is no experiment 99.")
    expect(dialog(page).get_by_role("button", name="Go on")).to_be_disabled()
    dialog(page).get_by_label("Why").fill("half a")
    service.client.post(f"/deploy/{TWIN}", json={"reason": "by somebody else"}).raise_for_status()
    expect(page.locator(".chip-name")).to_have_text("twin", timeout=15_000)
    page.keyboard.type(" sentence")
    expect(dialog(page).get_by_label("Why")).to_have_value("half a sentence")
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    expect(card(page, "Answers now")).to_contain_text("by somebody else")


class _Fresh(BaseHTTPRequestHandler):
    """A service with nothing in it: one that answers is never without a model for longer than it starts."""

    ANSWERS = {
        "/deployments": '{"generation": 0, "active": null, "previous": null, "shadow": null, "canary": null, '
        '"agreement": null, "watched": [], "replicas": [], "history": []}',
        "/experiments": '{"experiments": [], "total": 0}',
    }

    def do_GET(self) -> None:
        body = self.ANSWERS[self.path.partition("?")[0]].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_without_any_model_the_next_step_is_told(chromium: Browser) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Fresh) as backend:
        Thread(target=backend.serve_forever, daemon=True).start()
        with running_page(f"http://127.0.0.1:{backend.server_address[1]}") as address:
            context = chromium.new_context(viewport={"width": 1280, "height": 860})
            browser = Watched(context.new_page(), address)
            page = browser.visit("/deployments")
            expect(page.get_by_text("No model answers yet")).to_be_visible()
            expect(page.get_by_role("button", name="Roll back")).to_be_disabled()
            browser.look("deployments-empty")
            page.locator(".state").get_by_role("button", name="Deploy").click()
            expect(dialog(page).get_by_text("Nothing to deploy yet")).to_be_visible()
            context.close()
            assert not browser.wrong, browser.wrong
        backend.shutdown()
