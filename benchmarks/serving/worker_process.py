"""A worker as the comparison sees it: started once, stopped in its tracks while others are measured."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.serving.environments import Unavailable
from benchmarks.serving.workers.protocol import Limits, Load, Unsupported

ANSWER_LIMIT_S = 600.0
LOOK_S = 0.5
METER_ERROR_S = 0.02
"""The system counts processor time in ticks of 10 ms."""


@dataclass(frozen=True)
class Answer:
    """What a worker did with a load."""

    tokens: list[list[int]]
    seconds: float
    wall_s: float
    """With the way there and back."""
    others_s: float
    """For how long other processes kept a core busy meanwhile."""


class WorkerProcess:
    """Between measurements the process is stopped by a signal, so that no idle thread of it can spin."""

    def __init__(self, command: list[str], limits: Limits, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        numbers = [str(value) for value in (limits.threads, limits.slots, limits.context)]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._meter = psutil.Process(self._process.pid)
        self._read()
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a second time does nothing."""
        self._process.kill()
        self._process.wait()

    def answer(self, load: Load) -> Answer:
        """Raises Unsupported where the participant has no such thing, Unavailable where it failed."""
        self._process.send_signal(signal.SIGCONT)
        busy, own, started = _busy_s(), self._own_s(), time.perf_counter()
        self._write(asdict(load))
        reply = self._read()
        wall = time.perf_counter() - started
        others = _busy_s() - busy - (self._own_s() - own) - METER_ERROR_S
        self._process.send_signal(signal.SIGSTOP)
        if "unsupported" in reply:
            raise Unsupported(reply["unsupported"])
        _check_counts(load, reply["tokens"])
        return Answer(reply["tokens"], reply["seconds"], wall, max(0.0, others))

    def _write(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable(self._last_words()) from None

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        guard = threading.Timer(ANSWER_LIMIT_S, self._process.kill)
        guard.start()
        line = self._process.stdout.readline()
        guard.cancel()
        if not line:
            raise Unavailable(self._last_words())
        return dict(json.loads(line))

    def _last_words(self) -> str:
        self.close()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"ended: {lines[-1].strip()[:160] if lines else 'without a word'} ({self._log})"

    def _own_s(self) -> float:
        times = self._meter.cpu_times()
        return float(times.user + times.system)


def await_quiet(cores: float, within_s: float) -> None:
    """Wait until the machine uses less than this, but no longer than so many seconds."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        busy, started = _busy_s(), time.monotonic()
        time.sleep(LOOK_S)
        if _busy_s() - busy <= cores * (time.monotonic() - started):
            return


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _check_counts(load: Load, tokens: list[list[int]]) -> None:
    wanted = [request.new_tokens for request in load.requests]
    given = [len(row) for row in tokens]
    if given != wanted:
        raise Unavailable(f"gave {sum(given)} tokens where {sum(wanted)} were asked for")
