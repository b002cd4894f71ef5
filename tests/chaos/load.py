"""Clients of `/forward` in a process of their own: who measures takes nothing from who answers but the processor.

`python -m tests.chaos.load '{"url": …}'` asks until its standard input closes, then prints what became of each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ml_service.common.settings import PROJECT
from tests.chaos.wire import Answer, Client

SHORT = {"max_new_tokens": 32, "ignore_eos": True, "temperature": 0.8}
PROMPTS = ("def read_lines(path):", "import os\n", "class Node:", "for name in ", "return self.")
PLAIN: tuple[dict[str, Any], ...] = tuple({"text": text, "seed": n} | SHORT for n, text in enumerate(PROMPTS))


@dataclass(frozen=True)
class Wish:
    """What the clients do: so many of them ask again and again, or requests come at a rate, whoever answers."""

    url: str
    clients: int = 0
    rate: float = 0.0
    pause_s: float = 0.0
    bodies: Sequence[dict[str, Any]] = field(default_factory=lambda: PLAIN)


class Load:
    """Clients at work. What they got is known when the block of `asking` has ended."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def between(self, begin: float, end: float, status: int = 200) -> list[float]:
        """Seconds of the requests that began and were answered in this time."""
        return [a.seconds for a in self.answers if a.began >= begin and a.ended <= end and a.status == status]

    def statuses(self) -> Counter[int]:
        """How many of each."""
        return Counter(answer.status for answer in self.answers)

    def failures(self, *allowed: int) -> list[str]:
        """Requests that were neither answered nor refused as allowed, in words."""
        failed = Counter(f"{a.status} {a.error}".strip() for a in self.answers if a.status not in (200, *allowed))
        return [f"{count} times {what}" for what, count in failed.most_common(5)]


def quantile_ms(seconds: Sequence[float], quantile: float) -> float:
    """In milliseconds; not a number where there is none."""
    return float(np.quantile(seconds, quantile) * 1000) if len(seconds) else float("nan")


@contextlib.contextmanager
def asking(wish: Wish, *, gives_way: bool = False) -> Iterator[Load]:
    """Clients beside the block; such as give way take of the processor what the service leaves."""
    load = Load()
    command = [*(["nice", "-n", "19"] if gives_way else []), sys.executable, "-m", "tests.chaos.load"]
    running = subprocess.Popen(
        [*command, json.dumps(asdict(wish))], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None, "it was asked for"
        assert running.stdout.readline() == "ready\n", "the clients did not start"
        _say(running, "go")
        yield load
    finally:
        _say(running, "end")
        told, _ = running.communicate()
        load.answers += [Answer(*row) for row in json.loads(told or "[]")]


def _say(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None, "it was asked for"
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{word}\n")
        process.stdin.flush()


async def _main(wish: Wish) -> list[Answer]:
    answers: list[Answer] = []
    ends = asyncio.Event()
    client = Client(wish.url)
    requests = [client.request_of(json.dumps(body).encode()) for body in wish.bodies]
    print("ready", flush=True)
    await _line()
    work = (_at_a_rate if wish.rate else _in_turn)(client, wish, requests, answers, ends)
    task = asyncio.create_task(work)
    await _line()
    ends.set()
    await task
    return answers


async def _line() -> str:
    """The next word of who started us; empty where it is gone."""
    return await asyncio.to_thread(sys.stdin.readline)


async def _in_turn(
    client: Client, wish: Wish, requests: list[bytes], answers: list[Answer], ends: asyncio.Event
) -> None:
    async def ask_on(number: int) -> None:
        turn = number
        while not ends.is_set():
            turn += 1
            answer = await client.ask(requests[turn % len(requests)])
            answers.append(answer)
            if (pause_s := wish.pause_s if answer.status == 200 else max(wish.pause_s, 0.05)) > 0:
                await asyncio.sleep(pause_s)

    await asyncio.gather(*(ask_on(number) for number in range(wish.clients)))


async def _at_a_rate(
    client: Client, wish: Wish, requests: list[bytes], answers: list[Answer], ends: asyncio.Event
) -> None:
    """Requests begin when it is their time; who is late is begun at once, so that the rate is held on the whole."""
    began, sent, tasks = time.monotonic(), 0, set()

    async def one(request: bytes) -> None:
        answers.append(await client.ask(request))

    while not ends.is_set():
        for _ in range(int((time.monotonic() - began) * wish.rate) - sent):
            task = asyncio.create_task(one(requests[sent % len(requests)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    found = asyncio.run(_main(Wish(**json.loads(sys.argv[1]))))
    print(json.dumps([[a.began, a.seconds, a.status, a.retry_after, a.error] for a in found]))
