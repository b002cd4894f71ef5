"""The whole story in a browser: data comes in, a model learns it, answers, and the one before answers again."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Watched

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROMPT = "The quiet"
_QUALITIES = "quiet silver ancient yellow heavy patient narrow golden hollow gentle".split()
_NOUNS = "keeper sailor lantern harbour lighthouse anchor seagull captain island orchard shepherd meadow".split()
_DEEDS = "watched carried followed painted mended remembered counted greeted sheltered borrowed".split()
_PLACES = "by the water", "under the bridge", "before the storm", "after the harvest", "along the shore", "at midnight"


def write_tales(path: Path) -> Path:
    """Sentences that are all different, or they would be dropped as near duplicates."""
    dice = random.Random(7)

    def sentence() -> str:
        one, other = (f"{dice.choice(_QUALITIES)} {dice.choice(_NOUNS)}" for _ in range(2))
        return f"The {one} {dice.choice(_DEEDS)} the {other} {dice.choice(_PLACES)}.\n"

    path.write_text("".join(sentence() for _ in range(8000)), encoding="utf-8")
    return path


def answer_of(page: Page) -> str:
    page.get_by_role("link", name="Playground", exact=True).click()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("max_new_tokens", exact=True).fill("24")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_label("Answer", exact=True).get_by_text("Reached the most tokens")).to_be_visible(timeout=15_000)
    said = page.get_by_role("group", name="Answer: arrow keys go from token to token", exact=True).text_content()
    assert said
    return said


def drawn(page: Page) -> str:
    """What the chart of the training loss looks like."""
    picture = page.locator(".curves canvas").first.evaluate("canvas => canvas.toDataURL()")
    return str(picture)


def test_data_come_in_a_model_learns_it_answers_and_is_rolled_back(browser: Watched, tmp_path: Path) -> None:
    page = browser.visit("/")
    before = answer_of(page)

    page.get_by_role("link", name="Data", exact=True).click()
    page.locator("input[type=file]").set_input_files(write_tales(tmp_path / "harbour.txt"))
    page.get_by_role("button", name="Add to the data set").click()
    page.locator(".outcome").get_by_role("link", name="Train on it").click(timeout=30_000)

    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("harbour")
    dialog.get_by_label("Budget").fill("60")
    dialog.get_by_role("button", name="Train", exact=True).click()
    expect(page).to_have_url(re.compile(r"/ui/experiments/2$"))
    expect(page.get_by_role("heading", name="harbour", level=1)).to_be_visible()
    expect(page.locator(".page-title .badge").first).to_have_text("running", timeout=30_000)
    expect(page.locator(".curves canvas").first).to_be_visible(timeout=60_000)
    pictures = {drawn(page)}
    for _ in range(3):  # the curve moves
        page.wait_for_function("seen => !seen.includes(document.querySelector('.curves canvas').toDataURL())",
                               arg=list(pictures), timeout=60_000)  # fmt: skip
        pictures.add(drawn(page))
    browser.look("story-training")
    expect(page.locator(".page-title .badge").first).to_have_text("succeeded", timeout=180_000)
    score = page.get_by_role("row", name=re.compile("^new text")).get_by_role("cell").all_inner_texts()
    assert float(score[1]) < float(score[2]), f"bits per byte on what it has not seen: {score}"
    browser.look("story-trained")

    page.get_by_role("link", name="Deploy", exact=True).click()
    dialog.get_by_role("button", name="Go on").click()
    dialog.get_by_role("button", name="Deploy").click()
    expect(page.locator(".chip-name")).to_have_text("harbour", timeout=30_000)
    dialog.get_by_role("button", name="Close").click()
    assert answer_of(page) != before

    page.get_by_role("link", name="Deployments", exact=True).click()
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.locator(".chip-name")).to_have_text("python-mini", timeout=30_000)
    assert answer_of(page) == before
