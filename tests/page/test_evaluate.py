"""The evaluate page's stories: rows are judged as guessed, figures, rows, the same again, what goes wrong, history."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from ml_service.common.settings import PROJECT
from tests.page.conftest import Watched
from tests.test_process import Server

pytestmark = pytest.mark.browser
SAMPLES = PROJECT / "data" / "samples"


def choose(page: Page, file: Path) -> None:
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("button", name=f"Remove {file.name}")).to_be_visible()


def judge(page: Page) -> int:
    """Put the question; the number of the evaluation that the page leads to."""
    page.get_by_role("button", name="Judge", exact=True).click()
    page.wait_for_url(re.compile(r"id=\d+"), timeout=20_000)
    expect(page.get_by_text("Rows judged")).to_be_visible(timeout=30_000)
    found = re.search(r"id=(\d+)", page.url)
    assert found is not None
    return int(found[1])


def column(page: Page, label: str) -> Locator:
    return page.get_by_role("combobox", name=label, exact=True)


def outcome(page: Page) -> Locator:
    return page.get_by_role("alert")


def test_a_table_is_judged_as_guessed_and_its_rows_are_taken_home(browser: Watched, service: Server) -> None:
    page = browser.visit("/evaluate")
    expect(page.get_by_text("Nothing was judged yet")).to_be_visible()
    expect(page.get_by_role("button", name="Judge", exact=True)).to_be_disabled()
    choose(page, SAMPLES / "pairs.csv")
    expect(page.get_by_role("button", name="Prompts")).to_have_attribute("aria-pressed", "true")
    expect(column(page, "Prompts")).to_have_value("prompt")
    expect(column(page, "Targets")).to_have_value("target")
    expect(page.get_by_role("row").filter(has_text="def double(number):")).to_contain_text("number * 2")
    page.get_by_label("max_new_tokens").fill("16")
    page.get_by_label("stop, one on each line").fill("\\n")
    browser.look("evaluate-question")
    number = judge(page)
    told = service.client.get(f"/evaluations/{number}").json()
    for name, metric in told["report"]["metrics"].items():
        row = page.locator(".metrics tr", has=page.get_by_role("rowheader", name=name, exact=True))
        expect(row).to_contain_text(f"{metric['value']:.3f}")
        expect(row).to_contain_text(f"{metric['low']:.3f} to {metric['high']:.3f}")
        expect(row.get_by_role("img")).to_be_visible()
    worst = told["report"]["worst"][0]
    first = page.locator(".worst li").first
    expect(first).to_contain_text(f"Row {worst['row']}")
    assert first.locator("pre").all_inner_texts()[1] == worst["found"]["target"]
    expect(page.get_by_label("Histogram").locator("canvas")).to_be_visible()
    page.get_by_role("button", name="wer", exact=True).click()
    browser.look("evaluate-result")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rows").click()
    assert download.value.suggested_filename == f"evaluation-{number}.csv"
    assert download.value.path().read_bytes() == service.client.get(f"/evaluations/{number}/rows.csv").content


def test_the_same_question_again_says_that_it_was_put_before(browser: Watched) -> None:
    page = browser.visit("/evaluate")
    choose(page, SAMPLES / "pairs.csv")
    page.get_by_label("max_new_tokens").fill("16")
    page.get_by_label("stop, one on each line").fill("\\n")
    judge(page)
    expect(page.get_by_text("This very question had been put before")).to_be_visible()


def test_images_are_read_as_the_service_guesses(browser: Watched, service: Server) -> None:
    page = browser.visit("/evaluate")
    choose(page, SAMPLES / "images.zip")
    expect(page.get_by_text("What is in .zip is seen by the service alone")).to_be_visible()
    number = judge(page)
    columns = service.client.get(f"/evaluations/{number}").json()["report"]["columns"]
    assert (columns["image"], columns["target"]) == ("image", "target")
    expect(page.locator(".worst li").first).to_contain_text("Read")
    browser.look("evaluate-images")
    page = browser.visit("/evaluate")
    choose(page, SAMPLES / "images.zip")
    page.get_by_role("button", name="Images", exact=True).click()
    for label, name in (("Images", "picture"), ("Targets", "target")):
        column(page, label).fill(name)
        column(page, label).press("Enter")
    page.get_by_role("button", name="Judge", exact=True).click()
    expect(outcome(page)).to_contain_text("there is no column 'picture'")


def test_an_example_and_pasted_lines_are_texts(browser: Watched, service: Server) -> None:
    page = browser.visit("/evaluate")
    page.get_by_role("button", name="Use an example").click()
    expect(page.get_by_label("Text", exact=True)).to_have_value(re.compile("def read_lines"))
    expect(page.get_by_role("button", name="Texts")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Text", exact=True).fill("import os\nimport sys\n    return value\n")
    expect(page.get_by_text("(3)")).to_be_visible()
    number = judge(page)
    assert service.client.get(f"/evaluations/{number}").json()["report"]["count"] == 3
    expect(page.locator(".worst li").filter(has_text="    return value")).to_be_visible()


def test_labels_are_told_and_only_some_metrics_wanted(browser: Watched, service: Server, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("words,kind\nimport os,1\nimport sys,1\nos import,0\n", encoding="utf-8")
    page = browser.visit("/evaluate")
    choose(page, table)
    page.get_by_role("button", name="Texts", exact=True).click()
    for label, name in (("Texts", "words"), ("Labels", "kind")):
        column(page, label).click()
        page.get_by_role("option", name=name).click()
        expect(column(page, label)).to_have_value(name)
        expect(page.get_by_role("listbox")).to_have_count(0)  # else the next option may be one of the last menu
    page.get_by_label("Texts of labels").fill("0 wrong")
    page.get_by_role("button", name="Judge", exact=True).click()
    expect(outcome(page)).to_contain_text("'0 wrong' is no label = text")
    page.get_by_label("Texts of labels").fill("0 = wrong\n1 = right")
    page.get_by_label("Metrics, where not all that fit").click()
    page.get_by_role("option", name="accuracy", exact=True).click()
    page.keyboard.press("Escape")
    number = judge(page)
    report = service.client.get(f"/evaluations/{number}").json()["report"]
    assert list(report["metrics"]) == ["accuracy"]
    assert (report["columns"]["text"], report["columns"]["label"]) == ("words", "kind")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.csv", b"", "The file is empty."),
        ("latin.csv", "text\nÜbergröße\n".encode("utf-16"), "the file is UTF-16: UTF-8 is wanted"),
        ("two.csv", b"one,other\n1,2\n", "Text_column: say which column it is"),
        ("broken.csv", b"text\n\xff\xfe\n", "No row could be judged"),
    ],
)
def test_what_cannot_be_judged_is_told_where_it_was_asked(
    browser: Watched, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    page = browser.visit("/evaluate")
    choose(page, file)
    if name.startswith(("two", "broken")):
        page.get_by_role("button", name="Judge", exact=True).click()
    expect(outcome(page).filter(has_text=told)).to_be_visible(timeout=20_000)


def test_rows_that_fail_are_told_beside_those_that_do_not(browser: Watched, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"text": "import os"}\nnot json\n{"text": ""}\n', encoding="utf-8")
    page = browser.visit("/evaluate")
    choose(page, file)
    judge(page)
    failed = page.locator(".card", has=page.get_by_role("heading", name="Rows that could not be judged"))
    expect(failed.get_by_role("row").filter(has_text="2")).to_contain_text("not JSON")
    expect(failed.get_by_role("row")).to_have_count(3)


def test_a_long_one_tells_its_progress_and_is_cancelled(browser: Watched, service: Server, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    rows = ({"prompt": f"def step_{number}(", "target": f"value_{number}"} for number in range(3000))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    page = browser.visit("/evaluate")
    choose(page, file)
    page.get_by_label("max_new_tokens").fill("200")
    page.get_by_role("button", name="Judge", exact=True).click()
    page.wait_for_url(re.compile(r"id=\d+"), timeout=20_000)
    told = page.get_by_role("status").get_by_text(re.compile(r"\d+ of 3,000 rows, about .+ left"))
    expect(told).to_be_visible(timeout=30_000)
    browser.look("evaluate-progress")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel it").click()
    expect(page.get_by_text("It was cancelled; nothing of it is kept.")).to_be_visible(timeout=20_000)
    row = page.get_by_role("row").filter(has_text="long.jsonl")
    expect(row).to_contain_text("cancelled")
    assert service.client.get("/evaluations").json()["evaluations"][0]["state"] == "cancelled"


def test_the_history_leads_to_each_and_knows_those_that_failed(browser: Watched) -> None:
    page = browser.visit("/evaluate?id=99999")
    expect(page.get_by_text("There is no evaluation 99999")).to_be_visible()
    failed = page.get_by_role("row").filter(has_text="broken.csv")
    expect(failed).to_contain_text("failed")
    browser.look("evaluate-history")
    failed.get_by_role("link").first.click()
    expect(page.get_by_role("alert")).to_contain_text("No row could be judged")
    page.get_by_role("link", name="Judge something else").click()
    expect(page.get_by_role("button", name="Judge", exact=True)).to_be_visible()


def test_a_phone_has_all_of_it_without_scrolling_sideways(browser: Watched) -> None:
    browser.page.set_viewport_size({"width": 390, "height": 844})
    page = browser.visit("/evaluate?id=1")
    expect(page.get_by_label("Histogram").locator("canvas")).to_be_visible()
    browser.fits()
    browser.look("evaluate-phone")
    page = browser.visit("/evaluate")
    choose(page, SAMPLES / "pairs.csv")
    expect(column(page, "Prompts")).to_have_value("prompt")
    browser.fits()


def test_a_model_whose_files_are_gone_cannot_be_judged(browser: Watched, service: Server) -> None:
    page = browser.visit("/evaluate")
    page.get_by_role("button", name="Use an example").click()
    expect(page.get_by_label("Text", exact=True)).to_have_value(re.compile("def read_lines"))
    expect(page.get_by_role("button", name="Judge", exact=True)).to_be_enabled()
    with sqlite3.connect(service.store / "ml_service.db") as database:
        database.execute("UPDATE artifacts SET removed = CURRENT_TIMESTAMP")
    page.get_by_role("button", name="Judge", exact=True).click()
    expect(outcome(page)).to_contain_text("has no bundle any more: retention removed its files")
    expect(page.get_by_role("button", name="Judge", exact=True)).to_be_enabled()
