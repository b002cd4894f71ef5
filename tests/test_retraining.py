"""Retraining, seen from the store: what is refused and why, what a worker does, what survives a kill."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_service.common.bundle import load_manifest
from ml_service.common.errors import BadRequest, Conflict, InsufficientStorage, NotFound
from ml_service.common.settings import Settings
from ml_service.data import audit
from ml_service.data.database import Database
from ml_service.data.deployments import Deployments, Order
from ml_service.data.evaluations import Evaluations
from ml_service.data.experiments import Experiments
from ml_service.data.jobs import Claim, Jobs
from ml_service.data.series import Series
from ml_service.data.tables import Experiment
from ml_service.pipeline.account import account_of, compare
from ml_service.pipeline.adding import add_texts
from ml_service.pipeline.deploy import Deployer
from ml_service.pipeline.retrain import Retrainer, RetrainWish
from ml_service.pipeline.worker import Worker
from ml_service.training.run_files import CHECKPOINTS_DIRECTORY
from tests.conftest import write_corpus
from tests.test_stage_process import process_of

SMALL = {"window": 32, "batch_size": 4, "precision": "fp32", "validation_tokens": 1024}


class World:
    """A store with a deployed model and some text."""

    def __init__(self, database: Database, store: Path, bundle: Path, folder: Path) -> None:
        self.database, self.store, self.folder = database, store, folder
        self.settings = Settings(store=store, threads=1, training_threads=1, slots=1)
        self.experiments, self.series = Experiments(database, store), Series(database)
        self.retrainer = Retrainer(database, store)
        self.first = self.experiments.import_bundle(bundle, "tests").id
        Deployer(database, self.settings).deploy(Order(self.first, "tests", "to begin with"))

    def add(self, seed: int) -> None:
        """Text of its own for each seed."""
        words = random.Random(seed).sample([f"{a}{b}" for a in "abcdefghij" for b in "aeiou"], 20)
        texts = [" ".join(random.Random(f"{seed} {n}").choices(words, k=120)) + "\n" for n in range(60)]
        add_texts(self.database, self.store, texts, f"text-{seed}")

    def ask(self, **wish: Any) -> int:
        """Queue a small retraining."""
        defaults = {"budget": {"steps": 8}, "hyperparameters": SMALL}
        return self.retrainer.ask(RetrainWish.model_validate(defaults | wish), "tests").experiment.id

    def work(self, jobs: Jobs | None = None) -> None:
        """Be a worker until there is nothing to do."""
        Worker(self.database, self.settings, jobs).run(until_idle_s=0.0)

    def get(self, experiment_id: int) -> Experiment:
        """As it is remembered now."""
        return self.experiments.get(experiment_id)


@pytest.fixture
def world(database: Database, bundle: Path, tmp_path: Path) -> World:
    world = World(database, tmp_path / "store", bundle, tmp_path)
    world.add(1)
    return world


@pytest.fixture
def plain(bundle: Path, tmp_path: Path) -> World:
    """The same on SQLite alone."""
    from ml_service.data.schema import migrate

    database = Database(None, tmp_path / "store")
    migrate(database)
    world = World(database, tmp_path / "store", bundle, tmp_path)
    world.add(1)
    return world


def test_a_retraining_ends_with_a_judged_bundle_that_knows_where_it_comes_from(world: World) -> None:
    child = world.ask(deploy_if={"old_worse_by": 100.0})
    assert world.get(child).state == "queued"
    world.work()
    done = world.get(child)
    assert (done.state, done.error) == ("succeeded", None)
    assert done.summary["scores"]["new"]["bits_per_byte"] < done.summary["baseline"]["new"]["bits_per_byte"]
    stored = world.experiments.bundle_of(child)
    manifest = load_manifest(stored.path)
    assert (manifest.experiment_id, manifest.parent_experiment_id) == (child, world.first)
    assert [point.step for point in world.series.read(child)["validation_new_bits_per_byte"]][-1] == 8
    assert {each.data_name for each in Evaluations(world.database).of_experiment(child)} == {"new"}
    active = Deployments(world.database).slot().active
    assert active is not None
    assert (active.experiment_id, active.actor) == (child, "gate")
    assert audit.verify(world.database)[1] is None
    grandchild_learns_from_both(world, child)


def grandchild_learns_from_both(world: World, child: int) -> None:
    world.add(2)
    grandchild = world.ask(experiment_name="both", deploy_if={"better_by": 50.0})
    world.work()
    done = world.get(grandchild)
    assert done.state == "succeeded"
    assert set(done.summary["scores"]) == {"new", "replay"}
    assert done.summary["verdict"]["passed"] is False
    account = account_of(world.database, world.store, grandchild)
    assert [each["experiment_id"] for each in account["lineage"]["parents"]] == [child, world.first]
    assert account["lineage"]["dataset"]["version"] == 2
    compared = compare(world.database, world.store, [child, grandchild])
    assert compared["plan"]["version"] == [1, 2]
    assert "training.batch_size" not in compared["plan"]


def interrupted_at(
    world: World, experiment: int, do: Callable[[Path, threading.Event], None], stop: threading.Event
) -> Callable[[Claim, dict[str, Any]], bool]:
    """A heartbeat that does something once, as soon as there is a checkpoint."""
    directory, jobs, done = world.experiments.directory(experiment), Jobs(world.database), []

    def heartbeat(claim: Claim, progress: dict[str, Any]) -> bool:
        answer = jobs.heartbeat(claim, progress)
        if not done and list((directory / "run" / CHECKPOINTS_DIRECTORY).glob("checkpoint-*/trainer_state.json")):
            done.append(True)
            do(directory, stop)
        return answer

    return heartbeat


def kill_trainer(directory: Path, _: threading.Event) -> None:
    os.kill(process_of(directory), signal.SIGKILL)


def end_worker(_: Path, stop: threading.Event) -> None:
    stop.set()


@pytest.mark.parametrize("harm", [kill_trainer, end_worker])
def test_a_training_that_is_interrupted_goes_on_and_its_curve_has_no_hole(
    plain: World, harm: Callable[[Path, threading.Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_service.pipeline.lease._HEARTBEAT_S", 0.0)
    child = plain.ask(budget={"steps": 120}, hyperparameters=SMALL | {"checkpoint_steps": 20})
    jobs = Jobs(plain.database)
    worker = Worker(plain.database, plain.settings, jobs)
    monkeypatch.setattr(jobs, "heartbeat", interrupted_at(plain, child, harm, worker.stop))
    worker.run(until_idle_s=0.0)
    if worker.stop.is_set():
        assert plain.get(child).state == "queued"
        plain.work()
    done = plain.get(child)
    assert (done.state, done.error) == ("succeeded", None)
    steps = [point.step for point in plain.series.read(child)["train_loss"]]
    assert steps == sorted(set(steps))
    assert set(range(10, 121, 10)) <= set(steps)


def test_who_cancels_a_training_keeps_what_it_has_learned(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_service.pipeline.lease._HEARTBEAT_S", 0.0)
    child = plain.ask(budget={"steps": 100_000}, hyperparameters=SMALL | {"checkpoint_steps": 20}, deploy_if={})
    jobs = Jobs(plain.database)

    def cancel(_: Path, __: threading.Event) -> None:
        assert plain.retrainer.cancel(child, "tests") == "running"

    monkeypatch.setattr(jobs, "heartbeat", interrupted_at(plain, child, cancel, threading.Event()))
    plain.work(jobs)
    done = plain.get(child)
    assert done.state == "cancelled"
    assert done.summary["steps"] < 100_000
    assert done.summary["verdict"] is None
    assert plain.experiments.bundle_of(child).sha256
    with pytest.raises(Conflict, match="cancelled already"):
        plain.retrainer.cancel(child, "tests")


def test_what_cannot_be_trained_is_refused_in_words(plain: World) -> None:
    with pytest.raises(NotFound, match="no experiment 99"):
        plain.ask(start_from=99)
    with pytest.raises(NotFound, match="no version 7"):
        plain.ask(dataset_version=7)
    with pytest.raises(BadRequest, match=r"hyperparameters\.learning_rat"):
        plain.ask(hyperparameters={"learning_rat": 1})
    with pytest.raises(BadRequest, match="not chosen there"):
        plain.ask(hyperparameters={"seconds": 1})
    waiting = plain.ask()
    with pytest.raises(Conflict, match="still waiting to be trained"):
        plain.ask(start_from=waiting)
    assert plain.retrainer.cancel(waiting, "tests") == "cancelled"
    with pytest.raises(Conflict, match="cancelled before it had a model"):
        plain.ask(start_from=waiting)


def test_without_data_or_room_nothing_is_queued(
    database: Database, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database, tmp_path / "store", bundle, tmp_path)
    with pytest.raises(Conflict, match="no data yet"):
        world.ask()
    world.add(1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InsufficientStorage, match="MB are free"):
        world.ask()
    assert [each.kind for each in world.experiments.find()] == ["import"]


def test_the_same_wish_sent_many_times_is_one_experiment(world: World) -> None:
    wish = RetrainWish(experiment_name="once")
    asked: list[int] = []

    def ask() -> None:
        asked.append(world.retrainer.ask(wish, "tests", key="k").experiment.id)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 6
    assert len(set(asked)) == 1
    with pytest.raises(Conflict, match="asked for something else"):
        world.retrainer.ask(RetrainWish(experiment_name="other"), "tests", key="k")


def test_a_training_that_cannot_work_fails_with_its_own_sentence(plain: World) -> None:
    child = plain.ask(start_from="scratch", hyperparameters=SMALL | {"preset": "pico", "window": 500_000})
    plain.work()
    done = plain.get(child)
    assert done.state == "failed"
    assert "too few for windows of 500000" in (done.error or "")


def test_a_new_model_has_a_tokenizer_of_its_own(plain: World, tmp_path: Path) -> None:
    write_corpus(tmp_path / "more")
    texts = [path.read_text() for path in sorted((tmp_path / "more").iterdir())]
    add_texts(plain.database, plain.store, texts, "code")
    child = plain.ask(start_from="scratch", hyperparameters=SMALL | {"preset": "pico"})
    plain.work()
    done = plain.get(child)
    assert (done.state, done.kind, done.parent_id) == ("succeeded", "train", None)
    tokenizers = {
        load_manifest(plain.experiments.bundle_of(each).path).tokenizer_sha256 for each in (child, plain.first)
    }
    assert len(tokenizers) == 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_share_a_training(plain: World, strategy: str) -> None:
    child = plain.ask(strategy=strategy)
    plain.work()
    done = plain.get(child)
    assert (done.state, done.error) == ("succeeded", None)
    assert done.summary["steps"] == 8
