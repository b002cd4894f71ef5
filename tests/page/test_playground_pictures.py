"""Pictures on the playground: dropped, chosen, read, drawn on, copied."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ml_service.common.settings import PROJECT
from tests.page.conftest import Watched
from tests.page.playground import answer, copied, done_by, expect_done, greedy, parameter, prompt, run
from tests.test_process import Server

pytestmark = pytest.mark.browser
PICTURE = PROJECT / "data" / "samples" / "code.png"


def drop(page: Page, file: Path) -> None:
    """As from a file manager."""
    data = page.evaluate_handle(
        """async (bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "code.png", {type: "image/png"}));
            return transfer;
        }""",
        list(file.read_bytes()),
    )
    prompt(page).dispatch_event("dragover", {"dataTransfer": data})
    prompt(page).dispatch_event("drop", {"dataTransfer": data})


def test_a_dropped_picture_is_read_and_drawn_on(browser: Watched) -> None:
    page = browser.visit("/")
    drop(page, PICTURE)
    expect(page.get_by_alt_text("Picture: code.png")).to_be_visible()
    parameter(page, "max_new_tokens").fill("24")
    page.get_by_role("button", name="Run").click()
    expect_done(page)
    boxes = page.get_by_role("list", name="What was read").get_by_role("listitem")
    expect(boxes.first).to_have_accessible_name(re.compile(r"^1: import json, [\d.]+ % sure$"))
    assert boxes.count() > 10
    boxes.nth(2).locator("polygon").hover()
    expect(page.get_by_role("tooltip")).to_contain_text("class Inventory:")
    browser.look("playground-picture")
    expect(page.get_by_label("What was read", exact=True)).to_contain_text("def load(self):")
    page.get_by_role("button", name="Edit as the prompt").click()
    expect(prompt(page)).to_have_value(re.compile(r"^import json\n"))
    expect(page.get_by_alt_text("Picture: code.png")).to_have_count(0)


def test_a_chosen_picture_can_be_taken_away_again(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add a picture").click()
    chooser.value.set_files(PICTURE)
    expect(page.get_by_alt_text("Picture: code.png")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    run(page, "x = ", max_new_tokens="5")
    expect_done(page)
    assert answer(page).text_content() == greedy(service, "x = ", max_new_tokens=5)


def test_a_copied_picture_is_read_from_its_file(browser: Watched) -> None:
    page = browser.visit("/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drop(page, PICTURE)
    run(page, "# code\n", max_new_tokens="8")
    expect_done(page)
    shown = answer(page).text_content()
    command = copied(page, "curl")
    assert json.loads(done_by(["sh", "-c", command], PICTURE.parent))["prediction"] == shown
    expect(page.get_by_text("is copied")).to_have_count(0, timeout=15_000)
    assert done_by([sys.executable, "-c", copied(page, "Python")], PICTURE.parent) == f"{shown}\n"
