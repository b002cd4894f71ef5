"""Stories of experiments: train from the dialog, watch it live, compare, cancel, find, go by keyboard."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Watched
from tests.test_process import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TEXTS = [
    f"Scene {number}. Enter the {who}, {deed} the {number * 7 % 31} lanterns of the harbour; exit by the {way} door."
    for number, (who, deed, way) in enumerate(
        (who, deed, way)
        for who in ("ferryman", "duchess", "clerk", "captain", "widow", "gardener")
        for deed in ("counting", "lighting", "cursing", "carrying", "selling")
        for way in ("north", "south", "east", "west")
    )
]
SMALL = {"preset": "pico", "window": 32, "batch_size": 4, "evaluations": 4, "validation_tokens": 1024}
WISH = {"start_from": "scratch", "hyperparameters": SMALL, "precision": "fp32"}
TRAINED_WITHIN_MS = 180_000


def train(service: Server, name: str, **wish: Any) -> int:
    answer = service.client.post("/retrain", json=WISH | {"experiment_name": name, "budget": {"steps": 20}} | wish)
    answer.raise_for_status()
    return int(answer.json()["experiment_id"])


def ended(service: Server, number: int) -> dict[str, Any]:
    """What has become of it."""
    deadline = time.monotonic() + TRAINED_WITHIN_MS / 1000
    while True:
        account = service.client.get(f"/metrics/{number}", params={"max_points": 2}).json()
        if account["finished"]:
            return dict(account)
        assert time.monotonic() < deadline, f"it is still {account['state']}: {account['progress']}"
        time.sleep(0.2)


def add_texts(service: Server) -> None:
    """Once more is as once."""
    service.client.post("/add_data", json={"texts": TEXTS, "name": "scenes"}).raise_for_status()


@pytest.fixture(scope="module")
def trained(service: Server) -> tuple[int, int]:
    """Two trainings that have ended; they differ in their learning rate, and one is what the other began with."""
    add_texts(service)
    numbers = []
    for name, start, rate in (("lanterns, slow", "scratch", 1e-3), ("lanterns, fast", None, 4e-3)):
        number = train(service, name, start_from=start or numbers[-1], hyperparameters=SMALL | {"learning_rate": rate})
        account = ended(service, number)
        assert account["state"] == "succeeded", account["error"]
        numbers.append(number)
    return numbers[0], numbers[1]


def rows(page: Page) -> Locator:
    return page.locator("table.experiments tbody tr")


def curve(page: Page, name: str) -> Locator:
    return page.get_by_role("img", name=re.compile(rf"{name}.*\d+ points"))


def test_where_there_is_no_data_the_wish_for_a_training_leads_to_it(browser: Watched) -> None:
    page = browser.visit("/experiments")
    expect(page.get_by_role("link", name="python-mini").last).to_be_visible()
    page.get_by_role("button", name="New training").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("No data yet")).to_be_visible()
    dialog.get_by_role("button", name="Go to Data").click()
    expect(page).to_have_url(re.compile(r"/ui/data$"))


def test_a_training_is_asked_for_watched_and_ends_with_scores(browser: Watched, service: Server) -> None:
    add_texts(service)
    page = browser.visit("/experiments")
    page.get_by_role("button", name="New training").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("The name under which it is remembered.")).to_be_visible()
    dialog.get_by_label("Name").fill("lanterns, watched")
    dialog.get_by_label("Start from").click()
    page.get_by_role("option", name="No model: from scratch").click()
    dialog.get_by_label("Budget").fill("12")
    dialog.get_by_role("button", name="More").click()
    dialog.get_by_label("Hyperparameters, as JSON").fill('{"window": 3}')
    dialog.get_by_role("button", name="Train", exact=True).click()
    expect(dialog.get_by_text("window: Input should be greater than or equal to 16")).to_be_visible()
    browser.look("experiments-dialog")
    before = service.client.get("/experiments").json()["total"]
    dialog.get_by_label("Hyperparameters, as JSON").fill(str(SMALL).replace("'", '"'))
    dialog.get_by_role("button", name="Train", exact=True).dblclick()
    page.wait_for_url(re.compile(r"/experiments/\d+$"))
    assert service.client.get("/experiments").json()["total"] == before + 1, "a double click trains once"

    expect(page.get_by_role("heading", name="lanterns, watched")).to_be_visible()
    bar = page.get_by_role("progressbar", name="Progress of the training")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"[1-9]"), timeout=TRAINED_WITHIN_MS)
    loss = curve(page, "Training loss")
    expect(loss).to_be_visible(timeout=TRAINED_WITHIN_MS)
    seen = str(loss.get_attribute("aria-label"))
    expect(loss).not_to_have_attribute("aria-label", seen, timeout=TRAINED_WITHIN_MS)
    expect(page.get_by_text(re.compile(r"train, \d+%.* left"))).to_be_visible()
    browser.look("experiment-training")
    expect(page.get_by_text("succeeded", exact=True)).to_be_visible(timeout=TRAINED_WITHIN_MS)
    expect(page.get_by_role("row", name=re.compile(r"new text \d\.\d+"))).to_be_visible()
    expect(curve(page, "Held out: new text")).to_be_visible()
    expect(page.locator("pre.sample").first).to_contain_text("import os")
    expect(page.get_by_role("link", name="Ask it")).to_have_attribute("href", re.compile(r"/ui/\?model=\d+"))
    expect(page.get_by_role("link", name=re.compile("Data version 1"))).to_be_visible()
    browser.look("experiment-ended")


def test_two_are_compared_by_their_curves_scores_and_what_differs(browser: Watched, trained: tuple[int, int]) -> None:
    page = browser.visit("/experiments?name=lanterns,")
    compare = page.get_by_role("link", name="Compare")
    expect(page.get_by_text("Compare", exact=True)).to_have_attribute("aria-disabled", "true")
    page.get_by_role("checkbox", name="Select lanterns, slow").click()
    page.get_by_role("checkbox", name="Select lanterns, fast").click()
    expect(compare).to_have_text("Compare 2")
    compare.click()
    page.wait_for_url(re.compile(rf"compare\?ids={trained[0]},{trained[1]}$"))
    expect(curve(page, "Training loss")).to_have_attribute("aria-label", re.compile("slow .*points.*fast .*points"))
    expect(page.get_by_role("row", name=re.compile("learning rate 0.001 0.004"))).to_be_visible()
    expect(page.get_by_role("rowheader", name="new text")).to_be_visible()
    page.get_by_role("button", name="Tokens").click()
    page.get_by_text("Smooth").click()
    page.get_by_text("Logarithmic").click()
    browser.look("experiments-compared")
    page.get_by_role("columnheader", name="lanterns, fast").first.get_by_role("link").click()
    expect(page.get_by_role("heading", name="lanterns, fast")).to_be_visible()
    expect(page.locator(".plan dd", has_text="parent: 0.001").first).to_be_visible()


@pytest.mark.usefixtures("trained")
def test_the_table_is_filtered_and_sorted_and_its_address_says_how(browser: Watched) -> None:
    page = browser.visit("/experiments")
    expect(rows(page).filter(has_text="python-mini").get_by_text("active")).to_be_visible()
    page.get_by_role("button", name="Experiment", exact=True).click()
    expect(page.get_by_role("columnheader", name="Experiment")).to_have_attribute("aria-sort", "ascending")
    expect(rows(page).first).to_contain_text("lanterns, fast")
    page.get_by_role("button", name="New text").click()
    expect(page).to_have_url(re.compile(r"sort=bits_per_byte&order=asc"))
    expect(rows(page).last).to_contain_text("python-mini")
    browser.look("experiments")
    page.get_by_label("Name", exact=True).fill("slow")
    expect(rows(page)).to_have_count(1)
    page.reload()
    expect(rows(page)).to_have_count(1)
    page.get_by_label("State").click()
    page.get_by_role("option", name="Failed").click()
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(rows(page).filter(has_text="python-mini")).to_be_visible()


def test_an_experiment_is_opened_and_its_files_kept_by_the_keyboard(browser: Watched, trained: tuple[int, int]) -> None:
    page = browser.visit("/experiments?name=lanterns, fast")
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Name", exact=True).focus()
    link = page.get_by_role("link", name="lanterns, fast")
    for _ in range(14):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="lanterns, fast")).to_be_visible()
    keep = page.get_by_role("button", name="Keep files")
    keep.focus()
    page.keyboard.press("Enter")
    kept = page.get_by_role("button", name="Files are kept")
    expect(kept).to_have_attribute("aria-pressed", "true")
    kept.press("Enter")
    expect(keep).to_have_attribute("aria-pressed", "false")
    page.get_by_role("link", name=re.compile("lanterns, slow:")).press("Enter")
    expect(page.get_by_role("heading", name="lanterns, slow")).to_be_visible()
    page.mouse.move(0, 0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Metadata").click()
    assert download.value.suggested_filename == f"experiment-{trained[0]}.json"


@pytest.mark.usefixtures("trained")
def test_a_training_is_cancelled_and_keeps_what_it_has_learned(browser: Watched, service: Server) -> None:
    number = train(service, "lanterns, cut short", budget={"seconds": 600})
    waiting = train(service, "lanterns, never begun")
    page = browser.visit(f"/experiments/{waiting}")
    expect(page.get_by_text("queued", exact=True).first).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the training").click()
    expect(page.get_by_text("cancelled", exact=True)).to_be_visible()
    page = browser.visit("/experiments")
    row = rows(page).filter(has_text="cut short")
    expect(row.get_by_role("progressbar")).to_be_visible(timeout=TRAINED_WITHIN_MS)
    expect(row).to_contain_text(re.compile(r"train, \d+%"))
    browser.look("experiments-training")
    row.get_by_role("button", name="Cancel lanterns, cut short").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the training").click()
    expect(row.get_by_text("cancelled", exact=True)).to_be_visible(timeout=TRAINED_WITHIN_MS)
    expect(row.locator("td.score").first).to_contain_text(re.compile(r"\d\.\d{3}"))
    assert ended(service, number)["state"] == "cancelled"


def test_what_is_not_there_is_said_and_leads_back(browser: Watched) -> None:
    for path, words in (
        ("/experiments/999", "There is no experiment 999"),
        ("/experiments/nonsense", "There is no experiment nonsense"),
        ("/experiments/compare?ids=1", "Nothing to compare"),
        ("/experiments/compare?ids=1,999", "One of them is not there"),
    ):
        page = browser.visit(path)
        expect(page.get_by_text(words)).to_be_visible()
        expect(page.get_by_role("button", name="All experiments").last).to_be_visible()


def test_no_page_of_experiments_scrolls_sideways_on_a_phone(browser: Watched, trained: tuple[int, int]) -> None:
    browser.page.set_viewport_size({"width": 390, "height": 800})
    for path, words in (
        ("/experiments", "lanterns, fast"),
        (f"/experiments/{trained[1]}", "Artifacts"),
        (f"/experiments/compare?ids={trained[0]},{trained[1]}", "What differs"),
    ):
        page = browser.visit(path)
        expect(page.get_by_text(words).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    browser.look("experiments-compared-phone")
