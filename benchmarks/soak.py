"""What a server costs over time: idle, after clients who left, over very many requests; nothing may be lost or grow."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import aiohttp
from tqdm import tqdm

from benchmarks.server import RunningServer, running_server

IDLE_S = 10.0
LONG = {"text": "def read_lines(path):", "max_new_tokens": 500, "ignore_eos": True, "stream": True}
WORDS = "def class import return for in while if else raise value path name self index".split()
CONCURRENCY = 64


def main() -> None:
    """Print the figures; exit with 1 where something was lost or left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory of the bundle")
    parser.add_argument("--leavers", type=int, default=1_000, help="clients that connect, start and leave")
    parser.add_argument("--requests", type=int, default=100_000, help="short requests")
    arguments = parser.parse_args()
    with running_server(arguments.bundle) as server:
        server.post_first({"text": "a", "max_new_tokens": 8})
        print(f"idle                    {idle_share(server):8.2%} of a core over {IDLE_S:.0f} s")
        problems = leave(server, arguments.leavers)
        problems += soak(server, arguments.requests)
        print(f"idle afterwards         {idle_share(server):8.2%} of a core over {IDLE_S:.0f} s")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    raise SystemExit(1 if problems else 0)


def idle_share(server: RunningServer) -> float:
    """Processor seconds a second while nobody asks."""
    time.sleep(1)
    before = sum(server.process.cpu_times()[:2])
    time.sleep(IDLE_S)
    return float(sum(server.process.cpu_times()[:2]) - before) / IDLE_S


def leave(server: RunningServer, clients: int) -> list[str]:
    """Clients who start an answer and leave: before its first byte, after it, or after a few tokens."""
    descriptors, before = server.process.num_fds(), server.metrics()
    statuses = asyncio.run(_leave(str(server.client.base_url), clients))
    deadline = time.monotonic() + 30
    while server.metrics()["ml_service_num_requests_running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    after = server.metrics()
    ended = {
        name.split('"')[1]: int(value - before.get(name, 0))
        for name, value in after.items()
        if name.startswith("ml_service_requests_finished_total") and value != before.get(name, 0)
    }
    left_behind = server.process.num_fds() - descriptors
    print(f"clients who left        {clients:8,}   as they saw it: {dict(statuses)}; as the engine did: {ended}")
    print(f"left behind             {left_behind:8,} descriptors")
    problems = [f"{left_behind} descriptors were left open"] if left_behind > 2 else []
    gauges = ("ml_service_num_requests_running", "ml_service_num_requests_waiting")
    problems += [f"{name} is {after[name]:.0f} after all have left" for name in gauges if after[name]]
    answer = server.client.post("/forward", json={"text": "a", "max_new_tokens": 2})
    return problems if answer.status_code == 200 else [*problems, f"the next request got {answer.status_code}"]


async def _leave(url: str, clients: int) -> Counter[str]:
    source, seen = random.Random(0), Counter[str]()
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(url, timeout=timeout, connector=aiohttp.TCPConnector(limit=100)) as session:

        async def client(chunks: int) -> None:
            if chunks == 0:
                task = asyncio.ensure_future(session.post("/forward", json=LONG))
                await asyncio.sleep(source.random() * 0.01)
                task.cancel()
                seen["left before the answer"] += 1
                return
            response = await session.post("/forward", json=LONG)
            if response.status == 200:
                for _ in range(chunks):
                    await response.content.readany()
            seen[f"left after {response.status}"] += 1
            response.close()

        await asyncio.gather(*(client(source.choice([0, 1, 1, 3])) for _ in range(clients)))
    return seen


def soak(server: RunningServer, requests: int) -> list[str]:
    """Very many short requests: each is answered, and memory stays where it is."""
    memory = [server.resident_mib()]
    statuses: Counter[int] = Counter()
    started = time.perf_counter()
    asyncio.run(_soak(server, requests, statuses, memory))
    seconds = time.perf_counter() - started
    print(f"short requests          {requests:8,} in {seconds:.0f} s, statuses {dict(statuses)}")
    print("resident MiB by tenths  " + " ".join(f"{mib:.0f}" for mib in memory))
    grown = memory[-1] / memory[len(memory) // 2] - 1
    problems = [f"{count} requests got {status}" for status, count in statuses.items() if status != 200]
    return [*problems, f"memory grew by {grown:.1%} in the second half"] if grown > 0.03 else problems


async def _soak(server: RunningServer, requests: int, statuses: Counter[int], memory: list[float]) -> None:
    source = random.Random(1)
    bar = tqdm(total=requests, desc="soak", unit=" requests")
    tenths = max(requests // 10, 1)
    async with aiohttp.ClientSession(str(server.client.base_url)) as session:

        async def client(share: int) -> None:
            for _ in range(share):
                text = " ".join(source.choices(WORDS, k=source.randint(1, 40)))
                body = {"text": text, "max_new_tokens": source.randint(1, 4), "temperature": 1.0}
                async with session.post("/forward", json=body) as response:
                    await response.read()
                    statuses[response.status] += 1
                bar.update()
                if sum(statuses.values()) % tenths == 0:
                    memory.append(server.resident_mib())

        await asyncio.gather(*(client(requests // CONCURRENCY) for _ in range(CONCURRENCY)))
    bar.close()


if __name__ == "__main__":
    main()
