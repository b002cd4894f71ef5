"""The deployments of a store, on both databases: one active, no gaps, a rollback that goes back, keys, replicas."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from ml_service.common.errors import BundleRefused, Conflict, NotFound
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.deployments import CHANNEL, Deployments, Fault, Order
from ml_service.data.experiments import Experiments
from ml_service.data.listener import Listener
from ml_service.data.replicas import Replicas
from ml_service.data.schema import migrate
from ml_service.data.tables import Artifact, Deployment, Experiment, Replica
from tests.databases import Cluster


class World:
    """Experiments 1 to 4 and the store's deployments; an experiment's bundle is known by its number."""

    def __init__(self, database: Database) -> None:
        self.database, self.deployments = database, Deployments(database)
        with database.writing() as session:
            for number in range(1, 5):
                experiment = Experiment(
                    name=f"number {number}", kind="train", state="succeeded", plan={}, seed=0, commit="unknown",
                    dirty=False, environment={}, attempt=0, summary={}, pinned=False, actor="tests", created=now(),
                )  # fmt: skip
                session.add(experiment)
                session.flush()
                assert experiment.id == number

    def deploy(self, experiment_id: int, key: str | None = None) -> Deployment:
        order = Order(experiment_id, "tests", "because", key=key)
        return self.deployments.activate(order, str(experiment_id))

    def roll_back(self, key: str | None = None) -> Deployment | None:
        """As the pipeline does it; None where there is nothing before."""
        active = self.deployments.slot().active
        assert active is not None
        target = self.deployments.before(active)
        if target is None:
            return None
        order = Order(target.experiment_id, "tests", "back", "rollback", key=key)
        return self.deployments.activate(order, target.artifact_sha256, instead_of=active.id, restores=target)

    def try_out(self, experiment_id: int, strategy: str, percent: float | None = None) -> Deployment:
        order = Order(experiment_id, "tests", "try", strategy, percent)  # type: ignore[arg-type]
        return self.deployments.try_out(order, str(experiment_id))

    def answering(self) -> int:
        active = self.deployments.slot().active
        assert active is not None
        return active.experiment_id

    def states(self) -> list[tuple[int | None, str]]:
        return [(row.generation, row.state) for row in reversed(self.deployments.history(100))]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_a_deployment_takes_the_place_of_the_one_before(world: World) -> None:
    assert world.deployments.slot().active is None
    assert world.deployments.generation() == 0
    first, second = world.deploy(1), world.deploy(2)
    slot = world.deployments.slot()
    assert (slot.generation, slot.active.id, slot.previous.id) == (2, second.id, first.id)  # type: ignore[union-attr]
    assert world.states() == [(1, "retired"), (2, "active")]
    old = world.deployments.get(first.id)
    assert old.retired is not None
    assert old.activated is not None
    assert audit.verify(world.database) == (2, None)
    assert world.deployments.names_of([old, second]) == {1: "number 1", 2: "number 2"}
    with pytest.raises(NotFound, match="no deployment 77"):
        world.deployments.get(77)


def test_fifty_who_deploy_at_once_leave_one_active_and_no_gap(world: World) -> None:
    errors: list[Exception] = []

    def deploy(number: int) -> None:
        try:
            world.deploy(1 + number % 4)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=deploy, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    states = world.states()
    assert [generation for generation, _ in states] == list(range(1, 51))
    assert [state for _, state in states] == ["retired"] * 49 + ["active"]
    assert audit.verify(world.database) == (50, None)


def test_rollbacks_go_further_back_and_never_to_what_was_just_left(world: World) -> None:
    for experiment_id in (1, 2, 3):
        world.deploy(experiment_id)
    seen = []
    while (back := world.roll_back()) is not None:
        seen.append(back.experiment_id)
        previous = world.deployments.slot().previous
        assert (previous.experiment_id if previous else None) == (1 if back.experiment_id == 2 else None)
    assert seen == [2, 1]
    world.deploy(4)
    assert world.roll_back().experiment_id == 1  # type: ignore[union-attr]
    assert world.roll_back() is None


def test_a_rollback_of_what_is_no_longer_active_is_a_conflict(world: World) -> None:
    first, second = world.deploy(1), world.deploy(2)
    world.deploy(3)
    order = Order(1, "tests", "late", "rollback")
    with pytest.raises(Conflict, match="made meanwhile"):
        world.deployments.activate(order, "1", instead_of=second.id, restores=first)
    assert world.answering() == 3


def test_the_same_key_is_the_same_deployment_and_of_another_wish_a_conflict(world: World) -> None:
    first = world.deploy(1, key="a")
    assert world.deploy(1, key="a").id == first.id
    assert world.deployments.generation() == 1
    with pytest.raises(Conflict, match="belongs to another"):
        world.deploy(2, key="a")
    world.deploy(2)
    back = world.roll_back(key="b")
    assert world.deployments.of_key("b", "rollback").id == back.id  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="belongs to another"):
        world.deployments.of_key("a", "rollback")
    assert world.deployments.of_key("new", "replace", 1) is None


def test_a_bundle_that_did_not_prove_itself_is_remembered_and_changes_nothing(world: World) -> None:
    world.deploy(1)
    order = Order(2, "tests", "because", key="k")
    for _ in range(2):
        world.deployments.remember_failure(order, "2", "the model does not prove itself")
    assert world.states() == [(1, "active"), (None, "failed")]
    assert world.deployments.generation() == 1
    with pytest.raises(BundleRefused, match="does not prove itself"):
        world.deployments.of_key("k", "replace", 2)


def test_shadow_and_canary_come_beside_the_active_one_and_end_with_it(world: World) -> None:
    with pytest.raises(Conflict, match="nothing answers yet"):
        world.try_out(2, "shadow")
    world.deploy(1)
    with pytest.raises(Conflict, match="would say nothing"):
        world.try_out(1, "canary", 10)
    shadow, canary = world.try_out(2, "shadow"), world.try_out(3, "canary", 10)
    slot = world.deployments.slot()
    assert (slot.generation, slot.shadow.id, slot.canary.id) == (3, shadow.id, canary.id)  # type: ignore[union-attr]
    assert slot.canary.percent == 10  # type: ignore[union-attr]
    wider = world.try_out(3, "canary", 50)
    assert world.deployments.slot().canary.id == wider.id  # type: ignore[union-attr]
    world.deploy(3)
    slot = world.deployments.slot()
    assert slot.shadow is slot.canary is None
    assert world.states() == [(1, "retired"), (2, "retired"), (3, "retired"), (4, "retired"), (5, "active")]
    assert world.roll_back().experiment_id == 1  # type: ignore[union-attr]


def test_what_is_tried_can_be_ended_and_each_end_is_a_generation(world: World) -> None:
    world.deploy(1)
    canary = world.try_out(2, "canary", 10)
    fault = Fault("20 of 40 requests failed", {"watch": {"errors": 20}})
    with pytest.raises(NotFound, match="no canary"):
        world.deployments.end("canary", "tests", "another", only=canary.id + 1)
    ended = world.deployments.end("canary", "watch", "auto_rollback", fault, only=canary.id)
    assert (ended.state, ended.error, ended.outcome) == ("failed", fault.sentence, fault.figures)
    assert world.deployments.generation() == 3
    assert world.answering() == 1
    for trial in ("shadow", "canary"):
        with pytest.raises(NotFound, match=f"no {trial}"):
            world.deployments.end(trial, "tests", "")  # type: ignore[arg-type]
    world.deployments.add_outcome(canary.id, {"more": 1})
    assert world.deployments.get(canary.id).outcome == {"watch": {"errors": 20}, "more": 1}


def test_a_faulty_one_that_is_taken_back_keeps_its_figures(world: World) -> None:
    first, second = world.deploy(1), world.deploy(2)
    order = Order(1, "watch", "auto_rollback", "rollback")
    world.deployments.activate(order, "1", instead_of=second.id, restores=first, fault=Fault("slow", {"p95": 2.5}))
    assert world.states() == [(1, "retired"), (2, "failed"), (3, "active")]
    assert world.deployments.get(second.id).outcome == {"p95": 2.5}
    world.deploy(3)
    assert world.roll_back().experiment_id == 1  # type: ignore[union-attr]


def test_replicas_that_beat_live_and_those_that_do_not_are_forgotten(database: Database) -> None:
    replicas = Replicas(database)

    def beat(name: str, generation: int) -> None:
        replicas.beat(Replica(id=name, host="h", pid=1, generation=generation, state="ready", detail=None))

    for name in ("a", "b"):
        beat(name, 1)
    beat("a", 2)
    assert [(each.id, each.generation) for each in replicas.living()] == [("a", 2), ("b", 1)]
    for age, left in ((timedelta(minutes=1), 2), (timedelta(hours=2), 1)):
        with database.writing() as session:
            session.execute(update(Replica).where(Replica.id == "b").values(heartbeat=now() - age))
        assert [each.id for each in replicas.living()] == ["a"]
        beat("a", 2)
        with database.reading() as session:
            assert session.query(Replica).count() == left
    replicas.leave("a")
    assert replicas.living() == []


def test_a_bundle_is_found_by_number_and_by_name_the_newest_that_is_there_first(world: World, tmp_path: Path) -> None:
    experiments = Experiments(world.database, tmp_path)
    with world.database.writing() as session:
        for number, name, removed in ((1, "same", None), (2, "same", None), (3, "same", now()), (4, "2", None)):
            session.get_one(Experiment, number).name = name
            session.add(
                Artifact(
                    experiment_id=number, role="bundle", path=str(number), sha256="", size_bytes=1, removed=removed
                )
            )

    def found(name: str) -> int:
        return experiments.bundle_named(name).experiment.id

    assert [found(name) for name in ("same", "1", "2", "4")] == [2, 1, 2, 4]
    with pytest.raises(Conflict, match="experiment 3 has no bundle any more"):
        found("3")
    for name in ("5", "999999999", "1" * 40, "Same", "", "-1", "²"):
        with pytest.raises(NotFound, match="no experiment has that number or name"):
            found(name)


def test_who_listens_is_woken_by_a_change(cluster: Cluster, tmp_path: Path) -> None:
    database = Database(cluster.create(), tmp_path)
    migrate(database)
    world, heard = World(database), threading.Event()
    listener = Listener(database, CHANNEL, heard.set)
    assert heard.wait(5)
    heard.clear()
    world.deploy(1)
    assert heard.wait(5)
    listener.close()
    database.close()
