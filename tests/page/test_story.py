"""The whole story in a browser: data comes in, a model learns it, answers, and the one before answers again."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Watched

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROMPT = "The harbour"
_LINES = (
    "The harbour lay still", "and every ship was dark;", "a bell rang twice,", "the keeper lit his lamp,",
    "no wind came from the north,", "the water held the stars,", "and nobody spoke of the sea.",
)  # fmt: skip
_NEW_WORDS = "harbour ship bell keeper lamp wind water stars sea".split()


def write_poem(path: Path) -> Path:
    dice = random.Random(7)
    lines = (f"{dice.choice(_LINES)} {dice.choice(_LINES)}\n" for _ in range(8000))
    path.write_text("".join(lines), encoding="utf-8")
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
    page.locator("input[type=file]").set_input_files(write_poem(tmp_path / "harbour.txt"))
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
    browser.look("story-trained")

    page.get_by_role("link", name="Deploy", exact=True).click()
    dialog.get_by_role("button", name="Go on").click()
    dialog.get_by_role("button", name="Deploy").click()
    expect(page.locator(".chip-name")).to_have_text("harbour", timeout=30_000)
    dialog.get_by_role("button", name="Close").click()
    learned = answer_of(page)
    assert learned != before
    assert any(word in learned and word not in before for word in _NEW_WORDS), learned

    page.get_by_role("link", name="Deployments", exact=True).click()
    page.get_by_role("button", name="Roll back").click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.locator(".chip-name")).to_have_text("python-mini", timeout=30_000)
    assert answer_of(page) == before
