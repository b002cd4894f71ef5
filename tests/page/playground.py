"""What the playground's stories have in common: its fields, running it, and what it copies."""

from __future__ import annotations

import subprocess
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from ml_service.common.settings import PROJECT
from tests.test_process import Server

PROMPT = "def read_lines(path):\n    "


def prompt(page: Page) -> Locator:
    return page.get_by_label("Prompt", exact=True)


def answer(page: Page) -> Locator:
    return page.get_by_role("group", name="Answer: arrow keys go from token to token", exact=True)


def parameter(page: Page, name: str) -> Locator:
    return page.get_by_label(name, exact=True)


def run(page: Page, text: str = PROMPT, **parameters: str) -> None:
    prompt(page).fill(text)
    for name, value in parameters.items():
        parameter(page, name).fill(value)
    page.get_by_role("button", name="Run").click()


def greedy(service: Server, text: str, **parameters: object) -> str:
    whole = service.client.post("/forward", json={"text": text, **parameters})
    assert whole.status_code == 200, whole.text
    return str(whole.json()["prediction"])


def expect_done(page: Page, sentence: str = "Reached the most tokens that were allowed.") -> None:
    expect(page.get_by_label("Answer", exact=True).get_by_text(sentence)).to_be_visible(timeout=15_000)


def copied(page: Page, what: str) -> str:
    page.get_by_role("button", name=f"Copy as {what}").click()
    expect(page.get_by_text("is copied")).to_be_visible()
    return str(page.evaluate("navigator.clipboard.readText()"))


def done_by(command: list[str], folder: Path = PROJECT) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout
