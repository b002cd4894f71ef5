"""Promise 2: the database is killed, stopped and hangs for a while, each time under load; what clients feel of it."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from lib.text_data import content_hash
from ml_service.data import audit
from ml_service.data.database import Database
from ml_service.data.tables import Deployment, Experiment, Job, Record
from tests.chaos.crowd import Crowd
from tests.chaos.load import PLAIN, Load, Wish, asking, quantile_ms
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import Stack, wait_until
from tests.chaos.survive import first_bundle

HOWS = ("killed", "stopped", "hanging")
_SCHEMA = {"type": "object", "properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"]}
BODIES = (*PLAIN, {"text": "x = ", "max_new_tokens": 16, "json_schema": _SCHEMA})
"""The last one is prepared in a thread: there must be one for it."""
SILENCE_S = 5.0
"""`ML_SERVICE_DATABASE_TIMEOUT_S`."""
LONGEST_S = 2 * SILENCE_S + 2
"""Whoever asks first waits for the silent connection, then for a fresh one."""
STEPS = 200


@dataclass
class Seen:
    """What those got who need the database."""

    accepted: list[str] = field(default_factory=list)
    outcomes: list[tuple[float, float, str, int, str | None]] = field(default_factory=list)
    """(began, seconds, route, status, Retry-After)."""


class Writers(Crowd):
    """People who add data, judge, look at lists, deploy: every route here needs the database."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self.seen = url, Seen()
        works = (self._add, self._add, self._feed_back, self._retrain, self._deploy)
        reads = ("/experiments", "/deployments", "/datasets", "/feedback")
        for work in works:
            self._joins(self._on_and_on, work)
        for path in reads:
            self._joins(self._look_at, path)

    def _on_and_on(self, work: Any) -> None:
        number = 0
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._ends.wait(0.5):
                number += 1
                work(client, number)

    def _look_at(self, path: str) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._ends.wait(0.3):
                self._send(client, "GET", path)

    def _send(self, client: httpx.Client, method: str, path: str, **given: Any) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = client.request(method, path, **given)
        except httpx.TransportError as error:
            self.seen.outcomes.append((began, time.monotonic() - began, f"{path} {type(error).__name__}", 0, None))
            return None
        taken_s = time.monotonic() - began
        self.seen.outcomes.append((began, taken_s, path, answer.status_code, answer.headers.get("retry-after")))
        return answer

    def _add(self, client: httpx.Client, number: int) -> None:
        who = threading.get_ident()
        texts = [f"{who} {number} {part} " + " ".join(f"{random.random()}" for _ in range(60)) for part in range(3)]
        key = {"Idempotency-Key": f"{who} {number}"}
        while not self._ends.is_set():  # until it is there: the same wish under the same key
            answer = self._send(client, "POST", "/add_data", json={"texts": texts, "name": "away"}, headers=key)
            if answer is not None and answer.status_code < 300:
                self.seen.accepted.extend(texts)
                return
            self._ends.wait(0.5)

    def _feed_back(self, client: httpx.Client, number: int) -> None:
        self._send(client, "POST", "/feedback", json={"request_id": f"away-{number}", "accepted": True})

    def _retrain(self, client: httpx.Client, number: int) -> None:
        if number % 6 == 0:
            wish = {"budget": {"steps": 1}}
            answer = self._send(client, "POST", "/retrain", json=wish)
            if answer is not None and answer.status_code < 300:  # there is one that runs through all of it
                self._send(client, "POST", f"/experiments/{answer.json()['experiment_id']}/cancel")

    def _deploy(self, client: httpx.Client, number: int) -> None:
        if number % 3 == 0:
            self._send(client, "POST", "/deploy/1")


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, help="how long it is away each time (12, quick 9)")
    parser.add_argument("--rounds", type=int, help="of the three ways to go (2, quick 1)")
    arguments = parser.parse_args()
    away_s = arguments.seconds or (9.0 if arguments.quick else 12.0)
    rounds = arguments.rounds or (1 if arguments.quick else 2)
    report = Report("database_away", is_quick=arguments.quick)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        stack = Stack(store, first_bundle(Path(folder)), settings={"slots": "8"})
        with stack.running():
            experiment = _begin_training(stack)
            accepted = _break(stack, report, away_s, rounds)
            _judge_end(stack, report, experiment, accepted)
    report.finish()


def _begin_training(stack: Stack) -> int:
    texts = [f"def value_{n}(count):\n    return [count for total in {n} * {part}]\n" * 8
             for n in range(60) for part in range(3)]  # fmt: skip
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        client.post("/add_data", json={"texts": texts, "name": "first"}).raise_for_status()
        wish = {
            "budget": {"steps": STEPS}, "replay": 0.3,
            "hyperparameters": {
                "window": 64, "batch_size": 8, "validation_tokens": 1024, "precision": "fp32", "checkpoints": 8
            },
        }  # fmt: skip
        return int(client.post("/retrain", json=wish).raise_for_status().json()["experiment_id"])


def _break(stack: Stack, report: Report, away_s: float, rounds: int) -> list[str]:
    """All the times; the texts of which the service said that it has them."""
    quiet: list[tuple[float, float]] = []
    away: list[tuple[str, float, float]] = []
    back: list[float] = []
    wish = Wish(stack.url, clients=2, pause_s=0.02, bodies=BODIES)
    with Writers(stack.url) as writers, asking(wish) as load:
        time.sleep(2)
        for how in HOWS * rounds:
            quiet.append(_rest(5.0))
            with stack.database_gone(how):
                away.append((how, *_rest(away_s)))
            back.append(wait_until(lambda: _is_written(stack), "writing again", 60))
        quiet.append(_rest(5.0))
    _judge_answers(report, load, quiet, away)
    _judge_refusals(report, writers.seen, away)
    report.figure("written again after", f"{max(back):.1f} s at most")
    report.expect(max(back) <= 10, f"writing took {max(back):.1f} s to come back")
    return writers.seen.accepted


def _rest(seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def _is_written(stack: Stack) -> bool:
    body = {"request_id": "back", "accepted": True}
    return httpx.post(f"{stack.url}/feedback", json=body, timeout=30).status_code < 300


def _judge_answers(
    report: Report, load: Load, quiet: list[tuple[float, float]], away: list[tuple[str, float, float]]
) -> None:
    report.figure("database away", f"{len(away)} times, {sum(end - begin for _, begin, end in away):.0f} s")
    statuses = load.statuses()
    report.figure("/forward asked and failed", f"{statuses.total()} and {statuses.total() - statuses[200]}")
    report.expect(not load.failures(), f"/forward failed: {load.failures()}")
    usual = [seconds for span in quiet for seconds in load.between(*span)]
    print(f"{'':<12}{'count':>8}{'p50 ms':>9}{'p99 ms':>9}{'most ms':>9}")
    told = {"usual": usual}
    for how in HOWS:
        told[how] = [s for name, begin, end in away if name == how for s in load.between(begin, end)]
    for name, spans in told.items():
        print(f"{name:<12}{len(spans):>8}" + "".join(f"{quantile_ms(spans, q):>9.1f}" for q in (0.5, 0.99, 1)))
    usual_ms, usual_most_ms = quantile_ms(usual, 0.99), quantile_ms(usual, 1)
    for how in HOWS:
        p99_ms, most_ms = quantile_ms(told[how], 0.99), quantile_ms(told[how], 1)
        report.figure(f"p99 of /forward, {how} over usual", f"{p99_ms / usual_ms:.2f}")
        report.expect(p99_ms <= 2 * usual_ms, f"/forward's p99 is {p99_ms:.0f} ms beside {usual_ms:.0f} ({how})")
        report.expect(most_ms <= max(500, 2 * usual_most_ms), f"a /forward took {most_ms:.0f} ms ({how})")


def _judge_refusals(report: Report, seen: Seen, away: list[tuple[str, float, float]]) -> None:
    during = [each for each in seen.outcomes for _, begin, end in away if begin < each[0] < end - 0.1]
    refused = [each for each in during if each[3] == 503]
    statuses = Counter((path.split("/")[1], status) for _, _, path, status, _ in seen.outcomes)
    print("answers by route: " + ", ".join(f"/{path} {status}: {n}" for (path, status), n in sorted(statuses.items())))
    report.figure("refused with 503 meanwhile", len(refused))
    waited = [seconds for _, seconds, _, _, _ in refused]
    told = f"median {quantile_ms(waited, 0.5):.0f} ms, most {quantile_ms(waited, 1) / 1000:.1f} s"
    report.figure("time to a refusal", told)
    report.expect(quantile_ms(waited, 0.5) <= 500, f"who needs the database waits for a refusal: {told}")
    report.expect(max(waited, default=0) <= LONGEST_S, f"a refusal took {max(waited, default=0):.1f} s")
    report.expect(bool(refused), "nobody was refused: the database was not away")
    report.expect(all(each[4] for each in refused), "a 503 came without Retry-After")
    wrong = Counter(f"{path} {status}" for _, _, path, status, _ in seen.outcomes
                    if status not in (200, 201, 202, 409, 503))  # fmt: skip
    report.expect(not wrong, f"other answers: {dict(wrong)}")


def _judge_end(stack: Stack, report: Report, experiment: int, accepted: list[str]) -> None:
    database = Database(stack.database_url, stack.store)

    def state() -> str:
        with database.reading() as session:
            return session.get_one(Experiment, experiment).state

    wait_until(lambda: state() in ("succeeded", "failed", "cancelled"), "the end of the training", 300)
    with database.reading() as session:
        known = set(session.scalars(select(Record.content_hash)))
        attempts = session.scalar(select(Job.attempt).where(Job.experiment_id == experiment))
        active = session.query(Deployment).filter_by(state="active").count()
    lost = sum(content_hash(text) not in known for text in accepted)
    report.figure("texts accepted and lost", f"{len(accepted)} and {lost}")
    report.expect(not lost, f"{lost} accepted texts are lost")
    report.expect(len(accepted) > 0, "nothing was accepted at all")
    report.figure("the training beside all of it", f"{state()}, attempt {attempts}")
    report.expect(state() == "succeeded", f"the training {state()}")
    report.expect(active == 1, f"{active} deployments are active")
    report.expect((problem := audit.verify(database)[1]) is None, f"audit log: {problem}")
    database.close()


if __name__ == "__main__":
    main()
