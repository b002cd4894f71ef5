"""The data page's stories: first data, what was rejected and why, the same again, growth, a version, feedback."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.conftest import Watched
from tests.test_process import Server

pytestmark = pytest.mark.browser
WORDS = "alpha beta gamma delta function return import class while value count total path line read write open".split()


def some_text(seed: int, words: int = 80) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def choose(page: Page, *files: Path) -> None:
    page.locator("input[type=file]").set_input_files(list(files))
    for file in files:
        expect(page.get_by_role("button", name=f"Remove {file.name}")).to_be_visible()


def add(page: Page) -> Locator:
    """Send what is there; where its outcome stands."""
    page.get_by_role("button", name="Add to the data set").click()
    expect(page.locator(".outcome .notice")).to_be_visible(timeout=20_000)
    return page.locator(".outcome")


def figure_of(place: Locator, name: str) -> Locator:
    return place.locator(".figure", has=place.page.get_by_text(name, exact=True)).locator(".figure-value")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    notes, rows = tmp_path / "My notes.txt", tmp_path / "rows.jsonl"
    notes.write_text("\n\n".join(some_text(seed) for seed in range(30)), encoding="utf-8")
    lines = [json.dumps({"text": some_text(seed)}) for seed in range(100, 120)]
    rows.write_text("\n".join([*lines, "not json", '{"other": 1}', lines[0]]), encoding="utf-8")
    broken = tmp_path / "latin.txt"
    broken.write_bytes("Übergröße".encode("latin-1") * 20)
    return [notes, rows, broken]


def test_first_data_makes_a_version_and_tells_what_was_rejected(
    browser: Watched, service: Server, files: list[Path]
) -> None:
    page = browser.visit("/data")
    expect(page.get_by_text("No data yet")).to_be_visible()
    expect(page.get_by_role("button", name="Add to the data set")).to_be_disabled()
    browser.look("data-empty")
    choose(page, *files)
    name = page.get_by_label("Name of the source")
    expect(name).to_have_attribute("placeholder", "my-notes")
    name.fill("Not a name")
    expect(page.get_by_text("Lower-case letters, digits and single hyphens")).to_be_visible()
    page.get_by_role("button", name="Add to the data set").click()
    assert service.client.get("/datasets").json()["datasets"] == []
    name.fill("notes")
    page.get_by_label("Licence").fill("CC0-1.0")
    page.get_by_label("Tags").fill("first, text")
    outcome = add(page)
    expect(outcome.get_by_text("the data set is at version 1")).to_be_visible()
    expect(figure_of(outcome, "Rejected")).to_have_text("3")
    rejected = outcome.get_by_role("row").filter(has_text="rows.jsonl")
    expect(rejected.filter(has_text="21")).to_contain_text("malformed")
    expect(rejected.filter(has_text="22")).to_contain_text("no text in column")
    expect(outcome.get_by_role("row").filter(has_text="latin.txt")).to_contain_text("the whole file")
    expect(outcome.get_by_role("link", name="Train on it")).to_have_attribute("href", "/ui/experiments?train=1")
    version = page.get_by_role("row").filter(has_text="CC0-1.0")
    expect(version).to_contain_text("first, text")
    browser.look("data-report")
    told = service.client.get("/datasets/1").json()
    assert (told["added"]["name"], told["added"]["tags"]) == ("notes", ["first", "text"])
    expect(figure_of(outcome, "Accepted")).to_have_text(str(told["added"]["accepted"]))


def test_the_same_again_says_so(browser: Watched, files: list[Path]) -> None:
    page = browser.visit("/data")
    choose(page, *files)
    outcome = add(page)
    expect(outcome).to_contain_text("Nothing was added, for the same content had come before")
    outcome.get_by_role("button", name="Put this away").click()
    expect(outcome).to_be_empty()


def test_pasted_lines_are_texts_and_the_growth_is_drawn(browser: Watched, service: Server) -> None:
    page = browser.visit("/data")
    page.get_by_role("button", name="Paste text").click()
    page.get_by_label("Text", exact=True).fill("\n".join(some_text(seed) for seed in range(200, 204)))
    page.get_by_label("Each line is a text of its own").check()
    outcome = add(page)
    expect(figure_of(outcome, "Accepted")).to_have_text("4")
    assert service.client.get("/datasets").json()["datasets"][0]["added"]["name"] == "texts"
    expect(page.get_by_label("Growth of the data set").locator("canvas")).to_be_visible()
    page.get_by_role("button", name="Bytes").click()
    page.get_by_role("button", name="by source").click()
    browser.look("data-growth")


def test_a_version_opens_with_all_that_is_known_of_it(browser: Watched, service: Server) -> None:
    page = browser.visit("/data")
    page.get_by_role("link", name="1", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(service.client.get("/datasets/1").json()["fingerprint"])
    expect(dialog.get_by_role("row").filter(has_text="train")).to_contain_text("notes")
    expect(dialog.get_by_role("link", name="Train on it")).to_have_attribute("href", "/ui/experiments?train=1")
    browser.look("data-version")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page = browser.visit("/data?version=999")
    expect(page.get_by_role("dialog")).to_contain_text("999")
    expect(page.get_by_role("alert")).to_be_visible()


def test_a_refusal_stands_where_the_upload_is(browser: Watched, tmp_path: Path) -> None:
    page = browser.visit("/data")
    nothing = tmp_path / "nothing.txt"
    nothing.touch()
    choose(page, nothing)
    expect(add(page).get_by_role("alert")).to_contain_text("There is no usable text in it")
    page.get_by_label("Tags").fill(",".join(map(str, range(33))))
    page.get_by_role("button", name="Add to the data set").click()
    expect(page.locator(".outcome").get_by_role("alert")).to_contain_text("Tags: List should have at most 32 items")
    expect(page.get_by_role("button", name="Add to the data set")).to_be_enabled()


def test_an_upload_is_ended_while_it_is_sent_and_leaves_nothing(
    browser: Watched, service: Server, tmp_path: Path
) -> None:
    page = browser.visit("/data")
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(400 << 20)
    before = service.client.get("/datasets").json()
    choose(page, large)
    page.get_by_role("button", name="Add to the data set").click()
    expect(page.get_by_role("progressbar", name="Progress")).to_be_visible()
    expect(page.get_by_text(re.compile("Sending: .+ of 400.0 MiB"))).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".outcome")).to_contain_text("You ended it; nothing was added.")
    staging = service.store / "datasets" / "staging"
    service.until(lambda: not any(staging.iterdir()), "without what was sent")
    assert service.client.get("/datasets").json() == before


def test_feedback_becomes_data_with_a_button(browser: Watched, service: Server) -> None:
    correction = {"request_id": "x", "accepted": False, "prompt": "def f():", "correction": some_text(300)}
    assert service.client.post("/feedback", json=correction).status_code == 201
    page = browser.visit("/data")
    page.get_by_role("button", name="Make it data").click()
    page.get_by_role("dialog").get_by_role("button", name="Make it data").click()
    expect(page.get_by_text("1 texts become data")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="feedback")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="Make it data")).to_be_disabled()


def test_a_phone_has_all_of_it_without_scrolling_sideways(browser: Watched) -> None:
    browser.page.set_viewport_size({"width": 390, "height": 800})
    page = browser.visit("/data")
    expect(page.get_by_label("Growth of the data set").locator("canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    browser.look("data-phone")
