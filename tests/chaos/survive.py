"""Promise 1: server, worker, trainer and database are killed and stopped at random; nothing accepted is lost."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select
from tqdm import tqdm

from lib.text_data import content_hash
from ml_service.common.bundle import verify_files
from ml_service.data import audit
from ml_service.data.database import Database
from ml_service.data.datasets import Datasets
from ml_service.data.experiments import FINISHED, Experiments
from ml_service.data.jobs import LEASE_S
from ml_service.data.series import Series
from ml_service.data.tables import DataBatch, Deployment, Experiment, Job, Record, ServingSlot
from ml_service.pipeline.stages import export_model
from tests.chaos.crowd import Crowd
from tests.chaos.report import Report, parser_of
from tests.chaos.stack import VICTIMS, Stack, wait_until
from tests.conftest import build, small_plan, write_corpus

STEPS = 150
STOPPED_SHARE = 0.2
"""Of the faults: not killed but made to hang for a while."""
WISH = {
    "budget": {"steps": STEPS}, "deploy_if": {"old_worse_by": 100.0}, "replay": 0.3,
    "hyperparameters": {
        "window": 64, "batch_size": 8, "validation_tokens": 1024, "precision": "fp32", "checkpoints": 8,
    },
}  # fmt: skip


class Clients(Crowd):
    """People who use the service and do not give up: what failed is sent again under the same key."""

    def __init__(self, url: str, dice: random.Random) -> None:
        super().__init__()
        self._url, self._dice = url, dice
        self.answers: Counter[str] = Counter()
        self.accepted: list[str] = []
        """Texts of which the service has said that it has them."""
        self.experiments: set[int] = set()
        self.broken: list[str] = []
        for do in (self._ask, self._ask, self._add, self._retrain):
            self._joins(self._on_and_on, do)

    def _on_and_on(self, do: Any) -> None:
        number = 0
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._ends.is_set():
                number += 1
                do(client, number)

    def _send(self, client: httpx.Client, path: str, body: dict[str, Any], key: str | None = None) -> Any:
        """The answer of a request that went well; None where the service ends before it did."""
        while not self._ends.is_set():
            try:
                answer = client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
            except httpx.TransportError:
                self.answers[f"{path} no answer"] += 1
                self._ends.wait(0.1)
                continue
            self.answers[f"{path} {answer.status_code}"] += 1
            if answer.status_code < 300:
                return answer.json()
            if answer.status_code not in (409, 429, 503):
                self.broken.append(f"{path} was answered {answer.status_code}: {answer.text[:200]}")
            self._ends.wait(0.3)
        return None

    def _ask(self, client: httpx.Client, number: int) -> None:
        answer = self._send(client, "/forward", {"text": f"def value_{number}(", "max_new_tokens": 8})
        if answer is not None and answer["model"]["experiment_id"] is None:
            self.broken.append("an answer does not say which experiment it comes from")
        self._ends.wait(0.02)

    def _add(self, client: httpx.Client, number: int) -> None:
        words = [self._dice.choice("abcdefghijklmnopqrstuvwxyz") * self._dice.randint(1, 7) for _ in range(400)]
        texts = [f"{number} {part} " + " ".join(self._dice.choices(words, k=150)) for part in range(20)]
        if self._send(client, "/add_data", {"texts": texts, "name": "chaos"}, key=f"data {number}") is not None:
            self.accepted.extend(texts)
        self._ends.wait(1.0)

    def _retrain(self, client: httpx.Client, number: int) -> None:
        if (asked := self._send(client, "/retrain", WISH, key=f"retrain {number}")) is not None:
            self.experiments.add(asked["experiment_id"])
        while not self._ends.wait(0.5):
            with contextlib.suppress(httpx.TransportError, KeyError):
                if client.get(f"/metrics/{max(self.experiments, default=1)}").json()["state"] in FINISHED:
                    return


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--kills", type=int, help="how many (50, quick 8)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kills = arguments.kills or (8 if arguments.quick else 50)
    report, dice = Report("survive", is_quick=arguments.quick), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir()
        stack = Stack(store, first_bundle(Path(folder)), settings={"slots": "8"})
        with stack.running():
            with Clients(stack.url, random.Random(arguments.seed + 1)) as clients:
                _kill(stack, dice, kills)
                wait_until(stack.is_ready, "the last recovery")
            database = Database(stack.database_url, store)
            wait_until(lambda: not _unfinished(database), "the end of every experiment and batch", 400.0)
            _tell(report, stack, clients, database, clients.broken + _problems(database, store, clients))
            database.close()
    report.finish()


def first_bundle(folder: Path) -> Path:
    """A model that is trained in seconds."""
    from ml_service.training.workflow import build_training_artifacts, train

    write_corpus(folder / "code")
    build(folder / "code", folder / "data")
    train(build_training_artifacts(small_plan(folder / "data", folder / "run", preset="pico", steps=30)))
    export_model(folder / "run", folder / "bundle", "int8")
    return folder / "bundle"


def _kill(stack: Stack, dice: random.Random, times: int) -> None:
    with tqdm(total=times, desc="kills", mininterval=5) as bar:
        while bar.n < times:
            time.sleep(dice.uniform(0.2, 5.0))
            if dice.random() < STOPPED_SHARE:
                stack.stop_for(dice.choice(VICTIMS), dice.uniform(0.5, 8.0), dice)
            else:
                bar.update(stack.kill(dice.choice(VICTIMS), dice))
            if bar.n == times // 2 and not stack.stopped["worker for longer than its lease"]:
                has_one = stack.stop_for("worker", LEASE_S + 5, dice)
                stack.stopped["worker for longer than its lease"] += has_one


def _unfinished(database: Database) -> int:
    with database.reading() as session:
        jobs = session.query(Job).filter(Job.state.not_in(FINISHED)).count()
        return jobs + session.query(DataBatch).filter(DataBatch.state.in_(("received", "validating"))).count()


def _problems(database: Database, store: Path, clients: Clients) -> list[str]:
    """What is not as it was promised."""
    problems = _lost_data(database, store, clients)
    with database.reading() as session:
        active = session.query(Deployment).filter_by(state="active").all()
        slot = session.query(ServingSlot).one()
        if [each.id for each in active] != [slot.active_id]:
            problems.append(f"{len(active)} deployments are active")
        generations = list(session.scalars(select(Deployment.generation).where(Deployment.generation.is_not(None))))
        if len(generations) != len(set(generations)) or max(filter(None, generations), default=0) > slot.generation:
            problems.append(f"generations are {generations}")
        for experiment in session.query(Experiment).order_by(Experiment.id):
            problems += _problems_of(database, store, experiment)
        lost = clients.experiments - {each.id for each in session.query(Experiment)}
    problems += [f"experiment {each} was promised and is not there" for each in lost]
    if (problem := audit.verify(database)[1]) is not None:
        problems.append(f"audit log: {problem}")
    return problems


def _lost(database: Database, clients: Clients) -> int:
    with database.reading() as session:
        known = set(session.scalars(select(Record.content_hash)))
    return sum(content_hash(text) not in known for text in clients.accepted)


def _lost_data(database: Database, store: Path, clients: Clients) -> list[str]:
    problems = []
    if lost := _lost(database, clients):
        problems.append(f"{lost} of {len(clients.accepted)} accepted texts are lost")
    with database.reading() as session:
        left = session.query(DataBatch).filter(DataBatch.state.in_(("received", "validating"))).count()
    if left:
        problems.append(f"{left} batches hang between received and accepted")
    datasets = Datasets(database, store)
    latest = datasets.latest()
    shards = datasets.shards(latest.number) if latest is not None else []
    problems += [f"{shard.path.name} of the newest version is missing" for shard in shards if not shard.path.is_file()]
    return problems


def _problems_of(database: Database, store: Path, experiment: Experiment) -> list[str]:
    name = f"experiment {experiment.id} ({experiment.state})"
    if experiment.state not in FINISHED:
        return [f"{name} hangs"]
    if experiment.state != "succeeded":  # who is killed again and again without getting any further has failed
        is_fair = any(words in (experiment.error or "") for words in ("from outside", "was lost"))
        return [] if is_fair else [f"{name}: {experiment.error}"]
    verify_files(Experiments(database, store).bundle_of(experiment.id).path)
    if experiment.kind == "import":
        return []
    steps = [point.step for point in Series(database).read(experiment.id).get("train_loss", [])]
    expected = set(range(10, STEPS + 1, 10))
    return [] if expected <= set(steps) and len(steps) == len(set(steps)) else [f"{name}: its curve has {steps}"]


def _tell(report: Report, stack: Stack, clients: Clients, database: Database, problems: list[str]) -> None:
    told = ", ".join(f"{name} {count}" for name, count in sorted(stack.stopped.items()))
    report.figure("made to hang for a while", told)
    report.figure("killed with -9", ", ".join(f"{name} {count}" for name, count in sorted(stack.killed.items())))
    print("answers by route: " + ", ".join(f"{name}: {count}" for name, count in sorted(clients.answers.items())))
    answered = sum(count for name, count in clients.answers.items() if name.split()[1].startswith("2"))
    report.figure("requests answered", answered)
    with database.reading() as session:
        deployments = session.query(Deployment).count()
        states = Counter(each.state for each in session.query(Experiment).filter(Experiment.kind != "import"))
    report.figure("texts accepted and lost", f"{len(clients.accepted)} and {_lost(database, clients)}")
    report.figure("trainings that succeeded", f"{states['succeeded']} of {states.total()}")
    report.figure("deployments", deployments)
    report.expect(states["succeeded"] > 0, "no experiment succeeded")
    for problem in problems:
        report.expect(False, problem)


if __name__ == "__main__":
    main()
