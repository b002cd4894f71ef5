"""What the page costs: when it is ready in a browser, and what ten open ones take from the tokens of others."""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import socketio
from playwright.sync_api import Browser, sync_playwright
from tqdm import tqdm

from benchmarks.server import RunningServer, running_server
from ml_service.frontend.frame import NAVIGATION

GOAL_READY_S, GOAL_COST = 2.0, 0.02
READY = ".dot.good"
"""What answers is known, so the page talks with its server."""
_CLIENTS, _TOKENS = 8, 128


def main() -> None:
    """Print both; exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pages", type=int, default=10, help="open at the same time")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=8, help="without and with them, so many times in turns")
    parser.add_argument("--loads", type=int, default=5, help="of each page, for when it is ready")
    arguments = parser.parse_args()
    with running_server(arguments.bundle, log_level="warning") as server:
        server.post_first({"text": "a", "max_new_tokens": 8})
        slowest = _print_ready(server, arguments.loads)
        cost = asyncio.run(_print_cost(server, arguments.pages, arguments.seconds, arguments.rounds))
    raise SystemExit(slowest > GOAL_READY_S or cost > GOAL_COST)


def _print_ready(server: RunningServer, loads: int) -> float:
    """The worst of all, in seconds."""
    worst, url = 0.0, str(server.client.base_url).rstrip("/")
    print("| page | first visit | ready, median | worst |\n|---|---|---|---|")
    with _browser() as browser:
        for path, name, _ in NAVIGATION:
            taken = [_ready_s(browser, f"{url}/ui{path}") for _ in range(loads)]
            first, *later = taken
            print(f"| {name} | {first:.2f} s | {statistics.median(later):.2f} s | {max(later):.2f} s |")
            worst = max(worst, *later)
    return worst


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def _ready_s(browser: Browser, address: str) -> float:
    """In a browser that has nothing of it yet."""
    with browser.new_context() as context:
        page = context.new_page()
        started = time.perf_counter()
        page.goto(address)
        page.wait_for_selector(READY)
        return time.perf_counter() - started


async def _print_cost(server: RunningServer, pages: int, seconds: float, rounds: int) -> float:
    """The share of the tokens that is lost with so many open pages."""
    url = str(server.client.base_url).rstrip("/")
    await _tokens_per_second(server, url, seconds / 2)  # warm
    ratios, used = [], []
    for number in tqdm(range(rounds), desc="rounds"):
        rates = {}
        for is_watched in (False, True) if number % 2 == 0 else (True, False):
            async with _opened(url, pages if is_watched else 0):
                before = _page_processor_s(server)
                rates[is_watched] = await _tokens_per_second(server, url, seconds)
                if is_watched:
                    used.append((_page_processor_s(server) - before) / seconds)
        ratios.append(rates[True] / rates[False])
        print(f"{rates[False]:,.0f} tokens/s without, {rates[True]:,.0f} with {pages} open pages: {ratios[-1]:.3f}")
    cost = 1 - statistics.median(ratios)
    print(f"**{pages} open pages cost {cost:.1%} of the tokens** (median of {rounds}; goal {GOAL_COST:.0%}); ", end="")
    print(f"their process used {statistics.median(used):.1%} of a core")
    return cost


def _page_processor_s(server: RunningServer) -> float:
    children = server.process.children()
    pages = [child for child in children if "ml_service.frontend.process" in child.cmdline()]
    return sum(sum(page.cpu_times()[:2]) for page in pages)


async def _tokens_per_second(server: RunningServer, url: str, seconds: float) -> float:
    name = "ml_service_generation_tokens_total"
    deadline = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        while time.monotonic() < deadline:
            body = {"text": f"def value_{number}(self):", "max_new_tokens": _TOKENS, "temperature": 0.8, "seed": number}
            async with session.post(f"{url}/forward", json=body | {"ignore_eos": True, "stream": True}) as answer:
                answer.raise_for_status()
                await answer.read()

    began, before = time.perf_counter(), server.metrics()[name]
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session, number) for number in range(_CLIENTS)))
    return (server.metrics()[name] - before) / (time.perf_counter() - began)


@asynccontextmanager
async def _opened(url: str, pages: int) -> AsyncIterator[None]:
    """Pages as their server knows open ones, without a browser that would draw them on the same two cores."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for number in range(pages):
            path = NAVIGATION[number % len(NAVIGATION)][0]
            await stack.enter_async_context(_open_page(session, url, path))
        await asyncio.sleep(min(pages, 2))  # built
        yield


@asynccontextmanager
async def _open_page(session: aiohttp.ClientSession, url: str, path: str) -> AsyncIterator[None]:
    async with session.get(f"{url}/ui{path}") as answer:
        page = await answer.text()
    found = re.search(r"client_id\W+([0-9a-f-]{36})", page)
    assert found is not None, "a page says by which name its server knows it"
    query = {"client_id": found[1], "next_message_id": 0, "implicit_handshake": "true", "old_tab_id": "null"}
    query |= {"tab_id": str(uuid.uuid4()), "document_id": str(uuid.uuid4())}
    socket = socketio.AsyncClient()
    await socket.connect(
        f"{url}?{urlencode(query)}", socketio_path="/ui/_nicegui_ws/socket.io", transports=["websocket"]
    )
    try:
        yield
    finally:
        await socket.disconnect()


if __name__ == "__main__":
    main()
