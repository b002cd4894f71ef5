"""The health page: figures and curves that move with what is asked, and links to where there is more."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Watched
from tests.test_process import Server

pytestmark = pytest.mark.browser


def test_figures_move_with_the_load(service: Server, browser: Watched) -> None:
    page = browser.visit("/health")
    requests = page.locator(".figure", has_text="Requests").locator(".figure-value")
    expect(requests).to_have_text("0/s", timeout=15_000)
    expect(page.get_by_role("img", name=re.compile("^Tokens"))).to_be_visible()
    for seed in range(20):
        body = {"text": "import os\n", "max_new_tokens": 64, "temperature": 0.8, "seed": seed}
        service.client.post("/forward", json=body).raise_for_status()
    expect(requests).to_have_text(re.compile(r"^[1-9]"), timeout=15_000)
    expect(page.locator(".figure", has_text="Memory").locator(".figure-value")).to_contain_text("MiB")
    browser.look("health-load")
    browser.fits(390)


def test_it_leads_to_the_documentation_and_the_metrics(service: Server, browser: Watched) -> None:
    page = browser.visit("/health")
    for name, found in (("API", "swagger"), ("Metrics", "ml_service_generation_tokens_total")):
        address = page.get_by_role("link", name=name).get_attribute("href")
        assert address is not None
        assert found in service.client.get(address).raise_for_status().text
    expect(page.get_by_role("link", name="Grafana")).to_have_count(0)
