"""Promise 8: SIGTERM to a server full of work, one that starts, one that deploys, a worker that trains; and twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from ml_service.data.database import Database
from ml_service.data.experiments import FINISHED
from ml_service.data.tables import DataBatch, Deployment
from tests.chaos.guests import DRAIN_S, TOO_LATE, Guests
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import Stack, wait_until
from tests.chaos.survive import first_bundle

STEPS = 3000
WISH = {
    "budget": {"steps": STEPS}, "replay": 0.3,
    "hyperparameters": {"window": 64, "batch_size": 8, "validation_tokens": 1024, "precision": "fp32"},
}  # fmt: skip


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, help="of the signal under work (5, quick 1)")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    report = Report("drain", is_quick=arguments.quick)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"slots": "16", "image_reader": "at_start"}
        stack = Stack(Path(folder) / "store", has_postgresql=False, settings=settings)
        with stack.running():
            _full_of_work(stack, report, rounds)
            _never_ending(stack, report)
            _twice(stack, report)
            _while_it_starts(report, 3 if arguments.quick else 12)
            _while_it_deploys(stack, report, 2 if arguments.quick else 6)
        _database_is_sound(stack, report)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "store", first_bundle(Path(folder)), has_postgresql=False)
        with stack.running():
            _worker(stack, report)
    report.finish()


@contextlib.contextmanager
def _signalled(stack: Stack, name: str = "server") -> Iterator[subprocess.Popen[bytes]]:
    """It gets SIGTERM now, and is started again when the block has ended; it has ended by then."""
    process = stack.process(name)
    with stack.left_alone(name):
        process.send_signal(signal.SIGTERM)
        yield process
        process.wait(DRAIN_S + 60)
    if name == "server":
        wait_until(stack.is_ready, "the next start")


def _full_of_work(stack: Stack, report: Report, rounds: int) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    refused: Counter[int | str] = Counter()
    took, retry_after = [], True
    for _ in range(rounds):
        guests = Guests(stack.url)
        guests.begin(upload=1, batch=1, picture=1)
        wait_until(lambda: any((stack.store / "datasets" / "staging").iterdir()), "an upload under way")
        guests.begin(whole=8, stream=8)
        wait_until(lambda: stack.at_work() >= 16, "requests under way")
        began = time.monotonic()
        with _signalled(stack) as process:
            while process.poll() is None:
                status, says_when = _new_request(stack.url)
                if process.poll() is None:
                    refused[status] += 1
                    retry_after &= says_when or status != 503
                time.sleep(0.05)
            took.append(time.monotonic() - began)
            outcomes += guests.end()
            report.expect(process.returncode == 0, f"the process ended with code {process.returncode}")
    whole, late = (sum(count for (_, became), count in outcomes.items() if became == what)
                   for what in ("whole", TOO_LATE))  # fmt: skip
    under_way = outcomes.total() - late
    report.figure("requests under way and finished", f"{under_way} and {whole}, in {max(took):.1f} s at most")
    report.expect(late < under_way / 2, f"{late} requests were sent and not under way when the signal came")
    fine = ("whole", TOO_LATE)
    cut = {f"{kind}: {became}": count for (kind, became), count in outcomes.items() if became not in fine}
    report.expect(not cut, f"cut off by the signal: {cut}")
    report.expect(min(took) > 0.5, "the work was over before the signal: nothing was drained")
    print(f"new requests meanwhile: {dict(refused)}")
    report.figure("new requests refused with 503", refused[503])
    report.expect(refused[503] > 0, f"new requests were answered {dict(refused)}")
    report.expect(retry_after, "a 503 came without Retry-After")
    # At the very end the door is closed: who knocks then finds nobody, as after it.
    report.expect(set(refused) <= {503, "ConnectError", "ReadError", "RemoteProtocolError"}, f"got {dict(refused)}")


def _new_request(url: str) -> tuple[int | str, bool]:
    path, body = random.choice([("/forward", {"text": "a", "max_new_tokens": 1}), ("/add_data", {"texts": ["late"]}),
                                ("/retrain", WISH)])  # fmt: skip
    try:
        answer = httpx.post(f"{url}{path}", json=body, timeout=20)
    except httpx.TransportError as error:
        return type(error).__name__, False
    return answer.status_code, "retry-after" in answer.headers


def _never_ending(stack: Stack, report: Report) -> None:
    """A client that never ends its upload: the end of the service is not his to hold up."""
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        ends = threading.Event()

        def pieces() -> Iterator[bytes]:
            yield b'{"texts": ["'
            ends.wait(DRAIN_S + 40)
            yield b'"]}'

        def send() -> None:
            with contextlib.suppress(httpx.TransportError):
                client.post("/add_data", content=pieces(), headers={"Content-Type": "application/json"})

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        with _signalled(stack) as process:
            process.wait(DRAIN_S + 30)
            took = time.monotonic() - began
        ends.set()
        thread.join()
    report.figure("beside a client that never ends", f"code {process.returncode} after {took:.1f} s")
    report.expect(process.returncode == 0 and took < DRAIN_S + 10, f"{process.returncode} after {took:.0f} s")


def _twice(stack: Stack, report: Report) -> None:
    guests = Guests(stack.url)
    guests.begin(whole=4, stream=4, picture=1)
    wait_until(lambda: stack.at_work() >= 8, "requests under way")
    children = psutil.Process(stack.process("server").pid).children(recursive=True)
    with _signalled(stack) as process:
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        took = time.monotonic() - began
        guests.end()
        _, left = psutil.wait_procs(children, timeout=5)
    told = f"ended in {took:.2f} s, code {process.returncode}, {len(left)} processes left"
    report.figure("after a second signal", told)
    report.expect(took < 2, f"a second signal took {took:.1f} s")
    report.expect(not left, f"{len(left)} processes are left behind")


def _while_it_starts(report: Report, times: int) -> None:
    """A first start, which has a bundle to import and a database to make, ended after ever longer."""
    codes: Counter[int] = Counter()
    for number in range(times):
        with tempfile.TemporaryDirectory() as store:
            process = subprocess.Popen(
                [sys.executable, "-m", "ml_service.cli", "serve", "--port", "0"],
                env=os.environ | {"ML_SERVICE_STORE": store}, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(0.3 + 3.0 * number / times)
            process.send_signal(signal.SIGTERM)
            codes[process.wait(60)] += 1
    told = ", ".join(f"{count} times with code {code}" for code, count in sorted(codes.items()))
    report.figure("signals while it starts", told)
    # Before Python can catch a signal the system ends it: nothing of ours runs by then.
    report.expect(set(codes) <= {0, -signal.SIGTERM}, f"ended {told}")
    report.expect(codes[0] > 0, f"ended {told}")


def _while_it_deploys(stack: Stack, report: Report, times: int) -> None:
    answers: Counter[str] = Counter()
    for number in range(times):

        def deploy() -> None:
            try:
                answers[str(httpx.post(f"{stack.url}/deploy/1", timeout=60).status_code)] += 1
            except httpx.TransportError as error:
                answers[type(error).__name__] += 1

        thread = threading.Thread(target=deploy)
        thread.start()
        time.sleep(0.05 * (number + 1))
        with _signalled(stack) as process:
            process.wait(60)
        thread.join()
        report.expect(process.returncode == 0, f"code {process.returncode} in a deployment")
    report.figure("signals in a deployment, answered", ", ".join(f"{n} with {what}" for what, n in answers.items()))
    # Who finds the door closed came too late: nothing of his deployment had begun.
    report.expect(set(answers) <= {"200", "503", "ConnectError"}, f"a deployment was cut off: {dict(answers)}")


def _database_is_sound(stack: Stack, report: Report) -> None:
    database = Database(None, stack.store)
    with database.reading() as session:
        active = session.query(Deployment).filter_by(state="active").count()
        left = session.query(DataBatch).filter(DataBatch.state.in_(("received", "validating"))).count()
    database.close()
    report.expect(active == 1, f"{active} deployments are active")
    report.expect(left == 0, f"{left} batches are left half taken in")


def _worker(stack: Stack, report: Report) -> None:
    """It is asked to end in the middle of a training: a checkpoint is written, and the next one goes on from there."""
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        texts = [f"def value_{n}(count):\n    return {n} + count\n" * 20 for n in range(200)]
        client.post("/add_data", json={"texts": texts, "name": "first"}).raise_for_status()
        experiment = int(client.post("/retrain", json=WISH).raise_for_status().json()["experiment_id"])

        def account() -> dict[str, Any]:
            found: dict[str, Any] = client.get(f"/metrics/{experiment}").raise_for_status().json()
            return found

        wait_until(lambda: account()["progress"].get("step", 0) >= 100, "a hundred updates", 180)
        began = time.monotonic()
        with _signalled(stack, "worker") as process:
            process.wait(DRAIN_S + 60)
        took, stopped_at = time.monotonic() - began, account()["progress"].get("step", 0)
        report.figure("a worker that trains", f"code {process.returncode} after {took:.1f} s, at update {stopped_at}")
        report.expect(process.returncode == 0, f"the worker ended with code {process.returncode}")
        wait_until(lambda: account()["progress"].get("step", 0) > stopped_at, "going on", 180)
        steps = [point["step"] for point in _points(account(), "train_loss")]
        report.expect(len(steps) == len(set(steps)), "updates were done twice")
        report.expect(bool(steps) and min(steps) <= 10, "it began anew")
        worker = stack.process("worker")
        children = psutil.Process(worker.pid).children(recursive=True)
        with _signalled(stack, "worker"):
            time.sleep(0.3)  # two of a kind that come at once are one
            worker.send_signal(signal.SIGTERM)
            began = time.monotonic()
            worker.wait(30)
            _, left = psutil.wait_procs(children, timeout=5)
        is_over = time.monotonic() - began < 10 and not left
        report.expect(is_over, f"a worker's second signal: {len(left)} processes are left")
        client.post(f"/experiments/{experiment}/cancel").raise_for_status()
        wait_until(lambda: account()["state"] in FINISHED, "the end of the training", 180)
        report.expect(account()["error"] is None, f"the training: {account()['error']}")


def _points(account: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [{"step": step} for step in account["series"][key]["step"]]


if __name__ == "__main__":
    main()
