"""What the page costs: when it is ready in a browser, and what ten open ones take from the tokens of others."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import psutil
import socketio
from playwright.sync_api import Browser, sync_playwright
from tqdm import tqdm

from benchmarks.server import RunningServer, running_server
from ml_service.frontend.frame import NAVIGATION

GOAL_READY_S, GOAL_COST = 2.0, 0.02
PROCESS = "ml_service.frontend.process"
READY = ".dot.good"
"""What answers is known, so the page talks with its server."""
_CLIENTS, _TOKENS = 8, 128


def main() -> None:
    """Print both; exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pages", type=int, default=10, help="open at the same time")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=30, help="without and with them, so many times in turns")
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
    """The share of the processor time that is gone with so many open pages: no more of the tokens can be.

    They stay open all the time, and their process is stopped and goes on in turns. The tokens are counted as well, and
    swing more on a shared machine than what is looked for.
    """
    url = str(server.client.base_url).rstrip("/")
    ratios, used = [], []
    async with _opened(url, pages), _loaded(url), aiohttp.ClientSession(url) as session:
        (process,) = (child for child in server.process.children() if PROCESS in child.cmdline())
        await asyncio.sleep(seconds)
        for number in tqdm(range(rounds), desc="rounds", file=sys.stderr):
            rates = {}
            for is_watched in (False, True) if number % 2 == 0 else (True, False):
                (process.resume if is_watched else process.suspend)()
                before = sum(process.cpu_times()[:2])
                rates[is_watched] = await _tokens_per_second(session, seconds)
                if is_watched:
                    used.append((sum(process.cpu_times()[:2]) - before) / seconds)
            ratios.append(rates[True] / rates[False])
        process.resume()
    async with _opened(url, pages):
        shown = await _processor_share(server, process, 5 * seconds)
        process.suspend()
        hidden = await _processor_share(server, process, 5 * seconds)
        process.resume()
    cost = max(shown - hidden, 0.0) / (os.cpu_count() or 1)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"tokens with {pages} open pages, over without: {middle:.3f} (half of {rounds} in {low:.3f} to {high:.3f})")
    print(
        f"meanwhile their process used {statistics.mean(used):.1%} of a core; the idle service and it {shown:.1%}, ",
        end="",
    )
    print(f"{hidden:.1%} where it is stopped")
    print(f"**{pages} open pages cost {cost:.2%} of the processor time of this machine** (goal {GOAL_COST:.0%})")
    return cost


async def _processor_share(server: RunningServer, page: psutil.Process, seconds: float) -> float:
    """Of one core, what the service and its page use while nobody asks anything."""

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in (server.process, page))

    before = used()
    await asyncio.sleep(seconds)
    return (used() - before) / seconds


async def _tokens_per_second(session: aiohttp.ClientSession, seconds: float) -> float:
    began, before = time.perf_counter(), await _tokens(session)
    await asyncio.sleep(seconds)
    return (await _tokens(session) - before) / (time.perf_counter() - began)


async def _tokens(session: aiohttp.ClientSession) -> float:
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("ml_service_generation_tokens_total"))


@asynccontextmanager
async def _loaded(url: str) -> AsyncIterator[None]:
    """As many clients as keep the engine busy, while the block runs."""

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        while True:
            body = {"text": f"def value_{number}(self):", "max_new_tokens": _TOKENS, "temperature": 0.8, "seed": number}
            async with session.post("/forward", json=body | {"ignore_eos": True, "stream": True}) as answer:
                answer.raise_for_status()
                await answer.read()

    async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as group:
        clients = [group.create_task(client(session, number)) for number in range(_CLIENTS)]
        yield
        for task in clients:
            task.cancel()


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
