"""The playground's stories: run, stop, look at tokens, turn things, copy, judge; by keys alone, on a phone."""

from __future__ import annotations

import json
import re
import sys

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Watched
from tests.page.playground import PROMPT, answer, copied, done_by, expect_done, greedy, parameter, prompt, run
from tests.test_process import Server

pytestmark = pytest.mark.browser


def test_the_streamed_answer_is_the_whole_answer_with_what_it_cost(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    run(page, max_new_tokens="60")
    expect_done(page)
    assert answer(page).text_content() == greedy(service, PROMPT, max_new_tokens=60)
    facts = page.get_by_label("Answer", exact=True)
    for name in ("Queue", "First token", "Speed", "Prompt"):
        expect(facts.get_by_text(name, exact=True)).to_be_visible()
    expect(facts.get_by_text("#1 python-mini, int8, generation 1")).to_be_visible()
    expect(facts.get_by_text("60 tokens")).to_be_visible()
    browser.look("playground-answer")


def test_a_run_can_be_had_and_stopped_with_keys_alone(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    prompt(page).focus()
    page.keyboard.type("for number in range(")
    parameter(page, "max_new_tokens").fill("700")
    page.locator("summary", has_text="More").click()
    page.get_by_role("checkbox", name="ignore_eos").focus()
    page.keyboard.press("Space")
    prompt(page).focus()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Answering …")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    service.until(lambda: service.metric("ml_service_num_requests_running") == 0, "idle")
    shown = answer(page).text_content() or ""
    assert shown
    assert service.client.get("/metrics").status_code == 200
    expect(page.get_by_role("button", name="Run")).to_be_enabled()


def test_who_leaves_the_page_leaves_the_service(browser: Watched, service: Server) -> None:
    before = service.metric("ml_service_generation_tokens_total")
    page = browser.visit("/")
    page.locator("summary", has_text="More").click()
    page.get_by_role("checkbox", name="ignore_eos").click()
    run(page, max_new_tokens="900", n="16")
    expect(page.get_by_text("Answering …")).to_be_visible()
    page.goto(f"{browser.base}/ui/data")
    service.until(lambda: service.metric("ml_service_num_requests_running") == 0, "idle")
    assert service.metric("ml_service_generation_tokens_total") - before < 16 * 900 / 2


def test_a_token_tells_its_alternatives_to_mouse_and_keys(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    run(page, max_new_tokens="12")
    expect_done(page)
    tokens = answer(page).locator("span")
    tokens.nth(1).hover()
    tip = page.get_by_role("tooltip").filter(has_text="%")
    expect(tip).to_be_visible()
    expect(tip.locator(".token-row")).to_have_count(5)
    browser.look("playground-token")
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(tip).to_be_visible()
    scores = service.client.post("/forward", json={"text": PROMPT, "max_new_tokens": 12, "logprobs": 5}).json()
    second = scores["logprobs"][1]
    expect(tip.locator(".chosen")).to_contain_text(second["token"].strip() or "·")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_tokens_that_share_a_character_show_the_very_text(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    run(page, "名前 = '日本語", max_new_tokens="40", temperature="1.4", seed="5")
    expect_done(page)
    whole = greedy(service, "名前 = '日本語", max_new_tokens=40, temperature=1.4, seed=5)
    assert answer(page).text_content() == whole


def test_the_tint_can_be_turned_off(browser: Watched) -> None:
    page = browser.visit("/")
    run(page, max_new_tokens="30")
    expect_done(page)
    tinted = answer(page).locator(".tint-3, .tint-4").first
    nothing = "rgba(0, 0, 0, 0)"
    expect(tinted).not_to_have_css("background-color", nothing)
    page.get_by_role("switch", name="Tint by probability").click()
    expect(tinted).to_have_css("background-color", nothing)


def test_what_the_service_refuses_is_said_at_the_field(browser: Watched) -> None:
    page = browser.visit("/")
    run(page, temperature="11")
    expect(page.locator(".parameter", has_text="temperature").get_by_role("alert")).to_have_text(
        "Input should be less than or equal to 10"
    )
    expect(parameter(page, "temperature")).to_be_focused()
    browser.look("playground-refused")
    parameter(page, "temperature").fill("0")
    page.locator("summary", has_text="More").click()
    parameter(page, "json_schema").fill("{")
    page.locator("summary", has_text="More").click()
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".parameter", has_text="json_schema").get_by_role("alert")).to_contain_text("Not JSON")
    expect(parameter(page, "json_schema")).to_be_focused()
    page.get_by_role("button", name="Back to the defaults").click()
    expect(parameter(page, "json_schema")).to_have_value("")


def test_every_parameter_of_the_api_has_a_field_with_its_help(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    page.locator("summary", has_text="More").click()
    schema = service.client.get("/openapi.json").json()["components"]["schemas"]["ForwardRequest"]
    for name, about in schema["properties"].items():
        if name not in ("text", "image", "stream", "return_image", "model"):
            expect(parameter(page, name).or_(page.get_by_role("checkbox", name=name, exact=True))).to_be_visible()
            expect(page.get_by_text(about["description"].rstrip(".")).first).to_be_visible()
    browser.look("playground-more")


def test_several_answers_are_all_shown(browser: Watched, service: Server) -> None:
    page = browser.visit("/")
    page.locator("summary", has_text="More").click()
    run(page, "PORT = ", n="3", regex="[0-9]{2,5}", temperature="1", seed="1")
    expect_done(page, "Ended by itself")
    wish = {"text": "PORT = ", "n": 3, "regex": "[0-9]{2,5}", "temperature": 1, "seed": 1}
    answers = service.client.post("/forward", json=wish).json()["answers"]
    for number, one in enumerate(answers, start=1):
        shown = page.get_by_role("group", name=f"Answer {number}: arrow keys")
        assert shown.text_content() == one["prediction"]


def test_a_prompt_that_is_too_long_gets_the_services_sentence(browser: Watched) -> None:
    page = browser.visit("/")
    run(page, "word = 1; " * 3000)
    alert = page.get_by_label("Answer", exact=True).get_by_role("alert")
    expect(alert).to_contain_text("tokens")
    expect(alert).to_contain_text(re.compile("prompt|context"))


def test_the_draft_survives_a_reload(browser: Watched) -> None:
    page = browser.visit("/")
    prompt(page).fill("def kept():\n\treturn 1")
    page.reload()
    expect(prompt(page)).to_have_value("def kept():\n\treturn 1")
    parameter(page, "max_new_tokens").fill("3")
    page.get_by_role("button", name="Run").click()
    expect_done(page)


def test_an_example_is_a_prompt_to_begin_with(browser: Watched) -> None:
    page = browser.visit("/")
    page.get_by_role("button", name="A class").click()
    expect(prompt(page)).to_have_value(re.compile("class Stack"))
    expect(prompt(page)).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("Answer", exact=True).locator("dl")).to_be_visible(timeout=15_000)


@pytest.mark.parametrize("text", [PROMPT, "it's = '$HOME' # `x` \\n é \"\n\t"])
def test_what_is_copied_gives_the_same_answer(browser: Watched, text: str) -> None:
    page = browser.visit("/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    run(page, text, max_new_tokens="20", stop="zzz\\n'")
    expect(page.get_by_label("Answer", exact=True).locator("dl")).to_be_visible(timeout=15_000)
    shown = answer(page).text_content()
    assert json.loads(done_by(["sh", "-c", copied(page, "curl")]))["prediction"] == shown
    page.reload()
    parameter(page, "max_new_tokens").fill("20")
    parameter(page, "stop").fill("zzz\\n'")
    assert done_by([sys.executable, "-c", copied(page, "Python")]) == f"{shown}\n"


def test_a_verdict_and_a_correction_arrive(browser: Watched, service: Server) -> None:
    before = service.metric("ml_service_feedback_total")
    browser.page.set_viewport_size({"width": 1280, "height": 1200})  # the dialog stops the page from scrolling
    page = browser.visit("/")
    run(page, "def add(a, b):\n    return", max_new_tokens="6")
    expect_done(page)
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_text("Thank you. It is kept as a good answer.")).to_be_visible()
    expect(page.get_by_role("button", name="Good answer")).to_have_count(0)
    run(page, "def add(a, b):\n    return", max_new_tokens="7")
    expect_done(page)
    page.get_by_role("button", name="Bad answer").click()
    editor = page.get_by_label("Correction")
    expect(editor).to_have_value(answer(page).text_content() or "")
    browser.look("playground-correction")
    editor.fill(" ")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("It is blank")
    editor.fill(" a + b\n")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Your correction is kept as data")).to_be_visible()
    service.until(lambda: service.metric("ml_service_feedback_total") == before + 2, "told")


def test_nothing_is_wider_than_a_phone(browser: Watched) -> None:
    browser.page.set_viewport_size({"width": 390, "height": 844})
    page = browser.visit("/")
    prompt(page).fill("x = [" + "1234567890" * 30)
    page.get_by_role("button", name="Show the parameters").click()
    parameter(page, "max_new_tokens").fill("20")
    page.get_by_role("button", name="Run").click()
    expect_done(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    browser.look("playground-phone")
