"""Promise 6: the store's disk fills up while data comes, models learn, are deployed, judged; then there is room."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from lib.text_data import content_hash
from ml_service.common.bundle import verify_files
from ml_service.data import audit
from ml_service.data.database import SQLITE_FILE, Database
from ml_service.data.datasets import Datasets
from ml_service.data.experiments import FINISHED, Experiments
from ml_service.data.tables import Deployment, Experiment, LoggedRequest, Record
from tests.chaos.disk import Disk
from tests.chaos.load import Wish, asking
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import Stack, wait_until
from tests.chaos.survive import first_bundle

REFUSED = (507, 503)
WORDS = ("disk", "room", "MB")
"""A refusal says one of them."""
WISH = {
    "budget": {"steps": 60}, "replay": 0.3,
    "hyperparameters": {
        "window": 64, "batch_size": 8, "validation_tokens": 1024, "precision": "fp32", "checkpoints": 6,
    },
}  # fmt: skip
BACK_S = 15.0
LONGEST_S = 15.0
"""Ten times what it was seen to be, for slow machines."""


class Trial:
    """What is tried on a full disk, and whether it works again with room."""

    def __init__(self, stack: Stack, disk: Disk, report: Report) -> None:
        self.client = httpx.Client(base_url=stack.url, timeout=60)
        self.stack, self.disk, self.report = stack, disk, report
        self.refusals: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.slowest = (0.0, "")
        self._number = 0

    def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        """A request that is answered well, or refused for its disk in words."""
        began = time.monotonic()
        answer = self.client.request(method, path, **given)
        taken_s = time.monotonic() - began
        name = f"{method} {path}"
        if answer.status_code in REFUSED:
            self.refusals[str(answer.status_code)] += 1
            detail = str(answer.json().get("detail"))
            said = any(word in detail for word in WORDS)
            self.report.expect(said or answer.status_code == 503, f"{name} says nothing of a disk: {detail}")
        elif answer.status_code >= 400:
            self.report.expect(False, f"{name} was answered {answer.status_code}: {answer.text[:300]}")
        self.slowest = max(self.slowest, (taken_s, name))
        self.report.expect(taken_s <= LONGEST_S, f"{name} took {taken_s:.0f} s on a full disk")
        return answer

    def add(self, size: int = 20) -> httpx.Response:
        """Add new texts; those of which the service says that it has them are remembered."""
        self._number += 1
        texts = [
            f"def value_{self._number}_{n}(count):\n    return {n * self._number} + count\n" * 10 for n in range(size)
        ]
        answer = self.send("POST", "/add_data", json={"texts": texts, "name": "full"})
        if answer.status_code < 300:
            self.accepted.extend(texts)
        return answer

    def feed_back(self) -> httpx.Response:
        """The smallest of all writes."""
        self._number += 1
        return self.send("POST", "/feedback", json={"request_id": f"full-{self._number}", "accepted": True})

    def evaluate(self) -> httpx.Response:
        """A question that takes a file."""
        rows = "".join(f'{{"text": "def value_{n}(count): return {self._number}"}}\n' for n in range(50))
        self._number += 1
        return self.send("POST", "/evaluate", files={"file": ("rows.jsonl", rows.encode())})

    def retrain(self) -> int | None:
        """The experiment's number; None where it is refused."""
        answer = self.send("POST", "/retrain", json=WISH)
        return int(answer.json()["experiment_id"]) if answer.status_code < 300 else None

    def account(self, experiment: int) -> dict[str, Any]:
        """Where it stands."""
        account: dict[str, Any] = self.client.get(f"/metrics/{experiment}").raise_for_status().json()
        return account

    def read(self) -> None:
        """What only looks at things is answered."""
        for path in ("/experiments", "/deployments", "/datasets", "/health/ready", "/metrics", "/metadata"):
            answer = self.client.get(path)
            is_fine = answer.status_code in (200, 503)
            self.report.expect(is_fine, f"GET {path} was answered {answer.status_code}: {answer.text[:200]}")

    @contextlib.contextmanager
    def full(self, what: str) -> Iterator[None]:
        """In the block the disk is full; behind it, all works again soon."""
        print(f"full: {what}", flush=True)
        self.disk.fill()
        try:
            yield
        finally:
            self.disk.make_room()
        for name, works in (("adding data", self._adds), ("feedback", self._feeds_back), ("deploying", self._deploys)):
            self._back(f"{name} after {what}", works)

    def _back(self, what: str, works: Callable[[], bool]) -> None:
        wait_until(works, what, BACK_S)

    def _adds(self) -> bool:
        return self.add(2).status_code < 300

    def _feeds_back(self) -> bool:
        return self.feed_back().status_code < 300

    def _deploys(self) -> bool:
        return self.send("POST", "/deploy/1").status_code == 200


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    arguments = parser.parse_args()
    report = Report("full_disk", is_quick=arguments.quick)
    if os.geteuid() != 0:
        report.figure("skipped", "a file system can only be mounted by root")
        report.finish()
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "store")
        with disk.mounted():
            settings = {"slots": "8", "request_log_share": "1"}
            stack = Stack(disk.folder, first_bundle(Path(folder)), has_postgresql=False, settings=settings)
            with stack.running():
                trial = Trial(stack, disk, report)
                with asking(Wish(stack.url, clients=2, pause_s=0.1)) as load:
                    _try_all(trial, is_quick=arguments.quick)
                _fill_during_a_restart(trial)
                trial.client.close()
                report.figure("/forward asked and failed", f"{len(load.answers):,} and {len(load.failures())}")
                report.expect(not load.failures(), f"/forward failed: {load.failures()}")
                _judge(trial)
    report.finish()


def _try_all(trial: Trial, *, is_quick: bool) -> None:
    trial.add(200)
    second = trial.retrain()
    assert second is not None, "there is room"
    wait_until(lambda: trial.account(second)["state"] == "succeeded", "the first training", 180)
    for experiment in (second, 1):  # so that there is something to go back to
        trial.send("POST", f"/deploy/{experiment}")
    with trial.full("everything"):
        time.sleep(2.5)  # the request log is written once a second
        trial.read()
        for work in (trial.add, trial.feed_back, trial.evaluate, trial.retrain):
            work()
        trial.send("POST", f"/deploy/{second}")
        trial.send("POST", "/rollback")
        trial.read()
    with trial.full("little by little"):
        for leave in (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20):
            trial.disk.make_room()
            trial.disk.fill(leave)
            for work in (trial.add, trial.feed_back, trial.evaluate):
                work()
            trial.send("POST", f"/deploy/{second}")
    _fill_during_an_upload(trial)
    for phase in ("train", "export") if is_quick else ("extract", "train", "export", "evaluate"):
        _fill_during(trial, phase)


def _fill_during_an_upload(trial: Trial) -> None:
    line = b'{"text": "' + b"def value(count): return count; " * 30 + b'"}\n'

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="rows.jsonl"\r\n\r\n'
        for number in range(64):
            yield line * 1024
            if number == 16:
                trial.disk.fill(2 << 20)
        yield b"\r\n--b--\r\n"

    with trial.full("an upload"):
        trial.disk.make_room()
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        try:
            answer = trial.send("POST", "/add_data", content=pieces(), headers=headers)
        except httpx.TransportError:  # refused before it was sent to its end: what it says is lost on the way
            answer = None
        trial.report.expect(answer is None or answer.status_code == 507, f"an upload of 60 MB on 2: {answer}")
    left = [each for each in (trial.stack.store / "datasets" / "staging").glob("*") if each.is_dir()]
    trial.report.expect(not left, f"an upload that found no room left {left} behind")


def _fill_during_a_restart(trial: Trial) -> None:
    """The server ends and starts on a full disk: it has to answer with what was deployed."""
    with trial.full("a restart"):
        before = trial.stack.process("server")
        before.terminate()
        before.wait(60)
        wait_until(trial.stack.is_ready, "a start on a full disk", 60)
        answer = trial.client.post("/forward", json={"text": "a", "max_new_tokens": 4})
        trial.report.expect(answer.status_code == 200, f"started on a full disk: {answer.status_code}")


def _fill_during(trial: Trial, phase: str) -> None:
    experiment = trial.retrain()
    assert experiment is not None, "there is room"
    full = threading.Event()

    def has_come() -> bool:
        account = trial.account(experiment)
        is_there = account["phase"] == phase and (phase != "train" or account["progress"].get("step", 0) > 0)
        return is_there or account["state"] in FINISHED

    wait_until(has_come, f"{phase} of experiment {experiment}", 180)
    state = trial.account(experiment)["state"]
    with trial.full(f"{phase} of a training ({state})"):
        full.wait(6)
    wait_until(lambda: trial.account(experiment)["state"] in FINISHED, f"the end of experiment {experiment}", 240)
    account = trial.account(experiment)
    said = account["error"] or ""
    print(f"experiment {experiment}, filled in {phase}: {account['state']} {said}")
    is_clear = account["state"] == "succeeded" or any(word in said for word in WORDS)
    trial.report.expect(is_clear, f"a training that found no room in {phase} says: {said}")
    after = trial.retrain()
    assert after is not None, "there is room"
    wait_until(lambda: trial.account(after)["state"] in FINISHED, "a training with room", 180)
    trial.report.expect(trial.account(after)["state"] == "succeeded", f"with room: {trial.account(after)['error']}")


def _judge(trial: Trial) -> None:
    report, store = trial.report, trial.stack.store
    report.figure("refused", ", ".join(f"{count} with {status}" for status, count in sorted(trial.refusals.items())))
    report.figure("slowest of them all", f"{trial.slowest[0]:.1f} s ({trial.slowest[1]})")
    report.expect(trial.refusals["507"] > 0, "nothing was refused with 507")
    database = Database(None, store)
    with database.reading() as session:
        known = set(session.scalars(select(Record.content_hash)))
        active = session.query(Deployment).filter_by(state="active").count()
        logged = session.scalar(select(func.count()).select_from(LoggedRequest))
        succeeded = list(session.scalars(select(Experiment).where(Experiment.state == "succeeded")))
        states = Counter(session.scalars(select(Experiment.state).where(Experiment.kind != "import")))
    lost = sum(content_hash(text) not in known for text in trial.accepted)
    report.figure("texts accepted and lost", f"{len(trial.accepted)} and {lost}")
    report.expect(not lost, f"{lost} accepted texts are lost")
    report.figure("trainings", ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    for experiment in succeeded:
        verify_files(Experiments(database, store).bundle_of(experiment.id).path)
    report.figure("bundles, each whole", len(succeeded))
    report.expect(active == 1, f"{active} deployments are active")
    datasets = Datasets(database, store)
    latest = datasets.latest()
    missing = [s.path.name for s in datasets.shards(latest.number) if not s.path.is_file()] if latest else ["all"]
    report.expect(not missing, f"missing shards: {missing}")
    report.expect((problem := audit.verify(database)[1]) is None, f"audit log: {problem}")
    report.expect(bool(logged), "the request log is empty")
    database.close()
    with contextlib.closing(sqlite3.connect(store / SQLITE_FILE)) as connection:
        (said,) = connection.execute("PRAGMA integrity_check").fetchone()
    report.figure("SQLite's integrity check", said)
    report.expect(said == "ok", f"SQLite: {said}")


if __name__ == "__main__":
    main()
