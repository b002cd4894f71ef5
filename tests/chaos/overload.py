"""Promise 5: ten times the requests that can be answered, from a process that gives way; who is refused, who waits."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np

from tests.chaos.load import Answer, Load, Wish, asking, quantile_ms
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import Stack

TIMES = 10.0
SLOTS, MAX_WAITING = 8, 16
NEW_TOKENS = 128
"""As many as the API gives to who does not say."""
BODIES = tuple({"text": f"def value_{n}(", "max_new_tokens": NEW_TOKENS, "ignore_eos": True, "seed": n,
                "temperature": 0.8} for n in range(32))  # fmt: skip
_AFTER_S = 1.0
"""So long after the load's end the service is itself again."""
GOALS = {"refusal_p99_ms": 500.0, "accepted_factor": 1.5, "after_factor": 1.5, "growth": 0.15}
_SAMPLE_S = 0.1


class Watch:
    """What the server's process holds and whether it says that it lives, ten times a second."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._ends = stack, threading.Event()
        self.resident_mib: list[float] = []
        self.health_s: list[float] = []
        self.unhealthy = 0
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _look(self) -> None:
        with httpx.Client(base_url=self._stack.url, timeout=30) as client:
            while not self._ends.wait(_SAMPLE_S):
                self.resident_mib.append(self._stack.resident_mib())
                began = time.monotonic()
                self.unhealthy += client.get("/health/live").status_code != 200
                self.health_s.append(time.monotonic() - began)


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, help="of the overload (20, quick 6)")
    arguments = parser.parse_args()
    seconds = arguments.seconds or (6.0 if arguments.quick else 20.0)
    report = Report("overload", is_quick=arguments.quick)
    settings = {"slots": str(SLOTS), "max_waiting": str(MAX_WAITING)}
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "store", has_postgresql=False, has_worker=False, settings=settings)
        with stack.running():
            _calm(stack, 3.0)  # warm
            report.step("one client alone")
            alone = _calm(stack, seconds / 2)
            report.step("as many as there are places")
            capacity, full = _full(stack, seconds / 2)
            before_mib = stack.resident_mib()
            report.step(f"{TIMES:.0f} times the capacity")
            with Watch(stack) as watch:
                load, end, first = _overload(stack, capacity * TIMES, seconds)
            later = _calm(stack, seconds / 2)
            _judge(report, load, end, capacity, full)
            _judge_process(report, watch, before_mib)
            _judge_after(report, alone, first, later, stack)
    report.finish()


def _calm(stack: Stack, seconds: float) -> list[float]:
    """One client alone, as a measure of what is usual."""
    with asking(Wish(stack.url, clients=1, bodies=BODIES)) as load:
        time.sleep(seconds)
    return [answer.seconds for answer in load.answers if answer.status == 200]


def _full(stack: Stack, seconds: float) -> tuple[float, list[float]]:
    """As many clients as there are places: requests a second, and how long each takes then."""
    with asking(Wish(stack.url, clients=SLOTS + MAX_WAITING, bodies=BODIES)) as load:
        time.sleep(1)
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
    answered = [a for a in load.answers if a.status == 200 and begin <= a.ended <= end]
    return len(answered) / (end - begin), [answer.seconds for answer in answered]


def _overload(stack: Stack, rate: float, seconds: float) -> tuple[Load, float, list[float]]:
    """The load, when it ended, and what one client got from a second after that on."""
    ended = threading.Event()
    taken: list[float] = []

    def ask_afterwards() -> None:
        ended.wait()
        time.sleep(_AFTER_S)
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            for body in BODIES[:10]:
                began = time.monotonic()
                client.post("/forward", json=body).raise_for_status()
                taken.append(time.monotonic() - began)

    first = threading.Thread(target=ask_afterwards)
    first.start()
    with asking(Wish(stack.url, rate=rate, bodies=BODIES), gives_way=True) as load:
        time.sleep(seconds)
        end = time.monotonic()
        ended.set()
    first.join()
    return load, end, taken


def _judge(report: Report, load: Load, end: float, capacity: float, full: list[float]) -> None:
    answers, statuses = load.answers, load.statuses()
    rate = sum(answer.began <= end for answer in answers) / (end - min(answer.began for answer in answers))
    report.figure("capacity, sent", f"{capacity:.0f} and {rate:.0f} requests/s, {rate / capacity:.1f} times as many")
    report.expect(rate >= 0.8 * TIMES * capacity, f"only {rate / capacity:.1f} times the capacity was sent")
    failed = len(answers) - statuses[200] - statuses[429]
    report.figure("answered, refused with 429, failed", f"{statuses[200]:,}, {statuses[429]:,}, {failed:,}")
    report.expect(not load.failures(429), f"neither answered nor refused: {load.failures(429)}")
    refused = [answer for answer in answers if answer.status == 429]
    report.expect(all(answer.retry_after for answer in refused), "a 429 came without Retry-After")
    waited = [answer.seconds for answer in refused]
    report.figure("time to a refusal", f"p50 {quantile_ms(waited, 0.5):.0f} ms, p99 {quantile_ms(waited, 0.99):.0f} ms")
    goal_ms = GOALS["refusal_p99_ms"]
    report.expect(quantile_ms(waited, 0.99) <= goal_ms, f"the p99 of refusals is over {goal_ms:.0f} ms")
    _judge_accepted(report, [answer for answer in answers if answer.status == 200], full)
    begun = [answer for answer in answers if answer.status == 200 and answer.ended <= end]
    answered = len(begun) / (end - min(answer.began for answer in answers))
    report.figure("answered meanwhile", f"{answered:.0f} requests/s, {answered / capacity:.0%} of the capacity")


def _judge_process(report: Report, watch: Watch, before_mib: float) -> None:
    grown = max(watch.resident_mib) / before_mib - 1
    report.figure("resident memory", f"{before_mib:.0f} MiB before, {max(watch.resident_mib):.0f} at most")
    report.expect(grown <= GOALS["growth"], f"memory grew by {grown:.0%}")
    told = f"p99 {quantile_ms(watch.health_s, 0.99):.0f} ms, {watch.unhealthy} times not 200"
    report.figure("/health/live meanwhile", told)
    report.expect(watch.unhealthy == 0, f"/health/live was red {watch.unhealthy} times")


def _judge_accepted(report: Report, accepted: list[Answer], full: list[float]) -> None:
    """Against what they take where every place is taken all the time but nobody is refused."""
    taken = [answer.seconds for answer in accepted]
    for quantile in (0.5, 0.99):
        now_ms, full_ms = quantile_ms(taken, quantile), quantile_ms(full, quantile)
        name = f"p{quantile * 100:.0f} of the accepted over full load's"
        report.figure(name, f"{now_ms:.0f} / {full_ms:.0f} ms = {now_ms / full_ms:.2f}")
    factor = quantile_ms(taken, 0.99) / quantile_ms(full, 0.99)
    goal = GOALS["accepted_factor"]
    report.expect(factor <= goal, f"the accepted take {factor:.2f} times as long as at full load")


def _judge_after(report: Report, alone: list[float], first: list[float], later: list[float], stack: Stack) -> None:
    goal = GOALS["after_factor"]
    for when, taken in (("a second later", first), ("a while later", later)):
        report.expect(bool(taken), f"{when} nothing is answered")
        factor = float(np.median(taken or [float("inf")])) / float(np.median(alone))
        report.figure(f"median {when} over before", f"{factor:.2f}")
        report.expect(factor <= goal, f"{when} a request takes {factor:.2f} times as long")
    left = stack.at_work()
    report.expect(left == 0, f"{left} requests are left")


if __name__ == "__main__":
    main()
