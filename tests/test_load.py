"""The load generator at work: on the engine, on a real server, on a full one, on none; what it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ml_service.common.errors import Unavailable
from ml_service.common.settings import PROJECT, Settings
from ml_service.pipeline.load.bench import finish, run_bench
from ml_service.pipeline.load.engine_target import opened_engine
from ml_service.pipeline.load.generator import measure
from ml_service.pipeline.load.http_target import Route, Service
from ml_service.pipeline.load.outcomes import summarise
from ml_service.pipeline.load.target import AskFailed, Used
from ml_service.pipeline.load.workload import Ask, Load, Span, Workload
from tests.test_process import Server

SHORT = Workload(Span(4, 16), Span(4, 8), shared_prefix=0.5)


class Clerk:
    """A target that answers after a while, and notes when it was asked for what."""

    takes_ids = True

    def __init__(self, seconds: float = 0.01, failures: Callable[[Ask], str | None] = lambda _: None) -> None:
        self._seconds, self._failures = seconds, failures
        self.asked: list[tuple[float, Ask]] = []
        self.busy = self.most_busy = 0

    def __str__(self) -> str:
        return "a clerk"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Clerk]:
        yield self

    async def answer(self, ask: Ask, on_token: Callable[[], None]) -> Used:
        self.asked.append((time.perf_counter(), ask))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        await asyncio.sleep(self._seconds)
        on_token()
        self.busy -= 1
        if (reason := self._failures(ask)) is not None:
            raise AskFailed(reason, "as the test wants it")
        return Used(len(ask.prompt), ask.new_tokens, 0)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    server = Server(bundle, slots="4", threads="1")
    yield server
    server.kill()


def url_of(server: Server) -> str:
    return str(server.client.base_url)


def test_so_many_clients_ask_at_a_time_and_each_request_once() -> None:
    clerk, load = Clerk(), Load(concurrency=3, requests=10, warmup=2)
    measurement = measure(clerk, SHORT, load)
    assert clerk.most_busy == 3
    counted = [ask for _, ask in clerk.asked if ask.index >= 0]
    assert sorted(ask.index for ask in counted) == list(range(10))
    assert len(clerk.asked) == 1 + 2 + 10  # the probe and the warm-up are not counted
    assert counted[0] == SHORT.ask(0)
    assert len(measurement.answered) == 10


def test_requests_at_a_rate_come_when_they_are_due_whoever_waits() -> None:
    clerk, load = Clerk(seconds=0.2), Load(rate=100.0, requests=20, warmup=0)
    measurement = measure(clerk, SHORT, load)
    assert clerk.most_busy > 5
    assert measurement.seconds < 20 * 0.2
    starts = [outcome.started_s for outcome in sorted(measurement.outcomes, key=lambda outcome: outcome.index)]
    assert starts == sorted(starts)
    assert all(outcome.end_to_end_s >= 0.2 for outcome in measurement.outcomes)


def test_no_request_starts_after_the_seconds_and_those_under_way_are_awaited() -> None:
    for load in (Load(concurrency=2, seconds=0.1, warmup=0), Load(rate=50.0, seconds=0.1, warmup=0)):
        measurement = measure(Clerk(seconds=0.03), SHORT, load)
        assert measurement.outcomes
        assert all(outcome.started_s < 0.1 for outcome in measurement.outcomes)
        assert summarise(measurement).failed == 0


def test_failures_are_counted_by_reason_and_a_refused_client_waits_a_little() -> None:
    clerk = Clerk(0.0, lambda ask: "429" if ask.index in (1, 3) else "timeout" if ask.index == 2 else None)
    measurement = measure(clerk, SHORT, Load(concurrency=1, requests=5, warmup=0))
    assert summarise(measurement).failures == {"429": 2, "timeout": 1}
    assert measurement.seconds >= 0.3


def test_the_engine_is_measured_without_http(bundle: Path, settings: Settings) -> None:
    with opened_engine(bundle, settings) as engine:
        measurement = measure(engine, SHORT, Load(concurrency=4, requests=12))
        asks = [SHORT.ask(outcome.index) for outcome in measurement.outcomes]
        summary = summarise(measurement)
        assert summary.failed == 0
        assert summary.prompt_tokens == sum(len(ask.prompt) for ask in asks)
        assert summary.completion_tokens == sum(ask.new_tokens for ask in asks)
        assert summary.first_token_ms is not None
        in_words = Workload(Span(4, 4), Span(4, 4), words=True)
        assert summarise(measure(engine, in_words, Load(concurrency=1, requests=2))).failed == 0


def test_an_engine_that_is_full_is_a_failure_by_its_name(bundle: Path) -> None:
    settings = Settings(slots=1, max_waiting=0, threads=1)
    with opened_engine(bundle, settings) as engine:
        summary = summarise(measure(engine, SHORT, Load(concurrency=8, requests=8, warmup=0)))
    assert summary.failures["Overloaded"] >= 1
    assert summary.completion_tokens >= 4


@pytest.mark.parametrize("route", ["forward", "completions"])
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_routes_are_measured_over_http(server: Server, route: Route, streams: bool) -> None:
    service = Service(url_of(server), route, streams)
    summary = summarise(measure(service, SHORT, Load(concurrency=4, requests=12)))
    assert summary.failed == 0
    assert summary.completion_tokens == sum(SHORT.ask(index).new_tokens for index in range(12))
    wanted = sum(len(SHORT.ask(index).prompt) for index in range(12))
    assert summary.prompt_tokens == pytest.approx(wanted, rel=0.5)  # words: how many tokens they have is an estimate
    assert (summary.first_token_ms is not None) == streams
    assert summary.end_to_end_ms is not None


def test_a_first_request_that_is_refused_is_said_in_the_services_own_words(server: Server) -> None:
    with pytest.raises(Unavailable, match=r"400 .*context"):
        measure(Service(url_of(server)), Workload(Span(400, 400)), Load(concurrency=1, requests=1))
    with pytest.raises(Unavailable, match="404"):
        measure(Service(url_of(server) + "/nowhere"), SHORT, Load(concurrency=1, requests=1))


def test_a_full_service_is_counted_as_429(bundle: Path) -> None:
    server = Server(bundle, slots="1", max_waiting="0", threads="1")
    try:
        workload = Workload(Span(4, 8), Span(40, 40))
        summary = summarise(measure(Service(url_of(server)), workload, Load(concurrency=8, requests=16, warmup=0)))
        assert summary.failures["429"] >= 1
        assert summary.requests == 16
        server.process.kill()
        server.process.wait()
        with pytest.raises(Unavailable, match="nothing listens at http"):
            measure(Service(url_of(server)), workload, Load(concurrency=1, requests=1))
    finally:
        server.kill()


async def _reason_of(reply: bytes | None) -> str:
    """Why a request failed to which a server answered this, or nothing until the client had left."""
    has_closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if reply is None:
            await reader.read()
        writer.write(reply or b"")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        has_closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with Service(f"http://127.0.0.1:{port}", timeout_s=0.2).open() as target:
            with pytest.raises(AskFailed) as failed:
                await target.answer(SHORT.ask(0, 1.0), lambda: None)
        await has_closed.wait()
        return failed.value.reason


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "timeout"),
        (b"", "connection lost"),
        (STREAM + b"Content-Length: 100\r\n\r\ndata: {}\n\n", "connection lost"),
        (STREAM + b"\r\ndata: {}\n\n", "stream cut short"),
        (STREAM + b"\r\nevent: error\ndata: {}\n\n", "error in the stream"),
        (STREAM + b"\r\nevent: done\ndata: {}\n\n", "unreadable answer"),
    ],
)
def test_every_way_to_break_an_answer_has_its_reason(reply: bytes | None, reason: str) -> None:
    assert asyncio.run(_reason_of(reply)) == reason


def test_a_report_is_a_table_and_three_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loads = [Load(concurrency=1, requests=3), Load(concurrency=4, requests=6)]
    report = run_bench(Clerk(failures=lambda ask: "429" if ask.index == 5 else None), SHORT, loads)
    assert finish(report, tmp_path / "kept", max_failures=0) == 1
    assert finish(report, None, max_failures=1) == 0
    printed = capsys.readouterr().out
    assert "concurrency                         1         4" in printed
    assert "failed at 4: 1 429" in printed
    kept = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert [measured["requests"] for measured in kept["measurements"]] == [3, 6]
    assert kept["measurements"][1]["failures"] == {"429": 1}
    with (tmp_path / "kept" / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert [row["failure"] for row in rows].count("429") == 1
    assert (tmp_path / "kept" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb_measures_and_ctrl_c_shows_what_was_measured_so_far(server: Server, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "ml_service.cli", "bench", "--url", url_of(server), "--prompt-tokens", "4:8",
        "--new-tokens", "4", "--concurrency", "2", "--output", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run([*command, "--requests", "4"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "new tokens                         16" in done.stdout
    before = server.metric("ml_service_requests_finished_total")
    process = subprocess.Popen(
        [*command, "--seconds", "60"], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.until(lambda: server.metric("ml_service_requests_finished_total") > before + 20, "measured")
    os.kill(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted" in printed
    assert "new tokens/s" in printed
    assert "Traceback" not in errors
    assert (tmp_path / "report.png").exists()


def test_the_verb_has_help_with_an_example() -> None:
    command = [sys.executable, "-m", "ml_service.cli", "bench", "--help"]
    assert "Example: ml-service bench" in subprocess.check_output(command, cwd=PROJECT, text=True)


def test_the_verb_says_in_one_line_that_nothing_listens() -> None:
    command = [sys.executable, "-m", "ml_service.cli", "bench", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("ml-service: nothing listens at http://127.0.0.1:1: start")
    assert len(done.stderr.splitlines()) == 1
