"""Jobs: each claimed once, leases, fences, attempts, cancelling; on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timedelta

import pytest

from lib.processes import is_gone, own_name
from ml_service.common.errors import Conflict
from ml_service.data.database import Database, now
from ml_service.data.evaluations import Evaluations
from ml_service.data.jobs import LEASE_S, MAX_ATTEMPTS, Claim, Jobs, LeaseLost
from ml_service.data.tables import Experiment, Job
from tests.test_database import an_experiment


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.moment = now()

    def __call__(self) -> datetime:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(database: Database, clock: Clock) -> Jobs:
    return Jobs(database, clock=clock)


def queue_experiment(database: Database, jobs: Jobs) -> int:
    with database.writing() as session:
        experiment = an_experiment()
        session.add(experiment)
        session.flush()
        jobs.queue(session, "retrain", experiment.id)
        return experiment.id


def cancel(database: Database, jobs: Jobs, experiment_id: int) -> str:
    with database.writing() as session:
        return jobs.cancel(session, experiment_id)


def state_of(database: Database, experiment_id: int) -> tuple[str, str]:
    with database.reading() as session:
        job = session.query(Job).filter_by(experiment_id=experiment_id).one()
        return session.get_one(Experiment, experiment_id).state, job.state


def claimed(jobs: Jobs, device: str = "here") -> Claim:
    claim = jobs.claim("worker", device)
    assert claim is not None
    return claim


def test_sixty_jobs_among_four_workers_are_each_claimed_once(database: Database) -> None:
    jobs = Jobs(database)
    with database.writing() as session:
        for _ in range(60):
            jobs.queue(session, "evaluate")
    taken: list[int] = []

    def work(number: int) -> None:
        while jobs.wait():
            if (claim := jobs.claim(f"worker {number}", f"device {number}")) is not None:
                taken.append(claim.job_id)
                with jobs.fenced(claim) as session:
                    jobs.end(session, claim, "succeeded")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 60
    assert len(set(taken)) == 60


def test_an_error_that_no_database_can_keep_as_it_is_ends_a_job_all_the_same(database: Database, jobs: Jobs) -> None:
    experiment_id = queue_experiment(database, jobs)
    assert jobs.try_again(claimed(jobs), "the column a\0b is missing, \ud800 too")
    with database.reading() as session:
        job = session.query(Job).filter_by(experiment_id=experiment_id).one()
    assert job.error == "the column a\ufffdb is missing, ? too"


def test_one_training_a_device(database: Database, jobs: Jobs) -> None:
    first, second = (queue_experiment(database, jobs) for _ in range(2))
    claim = claimed(jobs, "gpu 0")
    assert claim.experiment_id == first
    assert jobs.claim("another", "gpu 0") is None
    assert claimed(jobs, "gpu 1").experiment_id == second


def test_the_important_goes_first(database: Database, jobs: Jobs) -> None:
    with database.writing() as session:
        jobs.queue(session, "plain")
        jobs.queue(session, "urgent", priority=5)
    assert claimed(jobs).kind == "urgent"


def test_the_same_wish_waits_once(database: Database, jobs: Jobs) -> None:
    with database.writing() as session:
        jobs.queue(session, "retention", dedup_key="retention")
        jobs.queue(session, "retention", dedup_key="retention")
    claim = claimed(jobs)
    with jobs.fenced(claim) as session:
        jobs.end(session, claim, "succeeded")
    assert not jobs.wait()


def test_a_job_whose_worker_died_goes_on_elsewhere_and_the_zombie_writes_nothing(
    database: Database, jobs: Jobs, clock: Clock
) -> None:
    experiment = queue_experiment(database, jobs)
    zombie = claimed(jobs)
    clock.sleep(LEASE_S - 1)
    assert jobs.claim("another", "there") is None
    clock.sleep(2)
    heir = claimed(jobs, "there")
    assert (heir.job_id, heir.attempt) == (zombie.job_id, 2)
    assert heir.token > zombie.token
    with pytest.raises(LeaseLost):
        jobs.heartbeat(zombie, {"share": 0.9})
    with pytest.raises(LeaseLost), jobs.fenced(zombie) as session:
        session.get_one(Experiment, experiment).error = "written by a zombie"
    with database.reading() as session:
        assert session.get_one(Experiment, experiment).error is None
        assert session.get_one(Job, heir.job_id).progress == {}
    assert state_of(database, experiment) == ("running", "running")


def test_a_job_whose_worker_is_known_to_be_dead_need_not_wait_for_its_lease(database: Database, clock: Clock) -> None:
    jobs = Jobs(database, clock=clock, is_gone=lambda owner: owner == "dead")
    queue_experiment(database, jobs)
    assert jobs.claim("dead", "here") is not None
    assert jobs.wait()
    heir = jobs.claim("alive", "here")
    assert heir is not None
    assert heir.attempt == 2
    assert not jobs.wait()


def test_a_process_is_gone_when_it_has_ended_and_nothing_is_known_of_other_machines() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, pid, born = own_name().rsplit(":", 2)
    assert is_gone(f"{host}:{ended.pid}:1")
    assert not is_gone(own_name())
    assert not is_gone(f"elsewhere:{ended.pid}:1")
    assert not is_gone(f"{host}:{pid}")
    assert not is_gone("worker")
    assert is_gone(f"{host}:{pid}:{int(born) - 1}"), "in a container that was started again all have the same numbers"


def test_a_heartbeat_keeps_the_lease(database: Database, jobs: Jobs, clock: Clock) -> None:
    queue_experiment(database, jobs)
    claim = claimed(jobs)
    for _ in range(5):
        clock.sleep(LEASE_S - 1)
        assert jobs.heartbeat(claim, {}) is False
    assert jobs.claim("another", "there") is None


def test_who_is_lost_again_and_again_without_getting_further_has_failed(
    database: Database, jobs: Jobs, clock: Clock
) -> None:
    experiment = queue_experiment(database, jobs)
    attempts = []
    while state_of(database, experiment)[0] != "failed":
        if (claim := jobs.claim("worker", "here")) is not None:
            attempts.append(claim.attempt)
        clock.sleep(LEASE_S + 1)
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))
    assert state_of(database, experiment) == ("failed", "failed")
    with database.reading() as session:
        assert "lost 5 times" in (session.get_one(Experiment, experiment).error or "")


def test_who_gets_further_between_two_losses_may_be_lost_for_ever(database: Database, jobs: Jobs, clock: Clock) -> None:
    experiment = queue_experiment(database, jobs)
    for step in range(1, 4 * MAX_ATTEMPTS):
        claim = claimed(jobs)
        jobs.heartbeat(claim, {"reached": step / 100})
        clock.sleep(LEASE_S + 100)
    assert state_of(database, experiment)[0] == "running"
    assert claimed(jobs).attempt == 2


def test_a_worker_that_is_told_to_end_spends_no_attempt(database: Database, jobs: Jobs) -> None:
    experiment = queue_experiment(database, jobs)
    jobs.give_back(claimed(jobs))
    assert state_of(database, experiment) == ("queued", "queued")
    assert claimed(jobs).attempt == 1


def test_what_fails_for_now_waits_longer_each_time_and_fails_in_the_end(
    database: Database, jobs: Jobs, clock: Clock
) -> None:
    experiment = queue_experiment(database, jobs)
    for _ in range(MAX_ATTEMPTS - 1):
        assert jobs.try_again(claimed(jobs), "the disk is full")
        clock.sleep(60)
    assert not jobs.try_again(claimed(jobs), "the disk is full")
    assert state_of(database, experiment) == ("failed", "failed")


def test_cancelling_what_waits_ends_it_and_what_runs_is_asked(database: Database, jobs: Jobs) -> None:
    waiting = queue_experiment(database, jobs)
    assert cancel(database, jobs, waiting) == "cancelled"
    assert state_of(database, waiting) == ("cancelled", "cancelled")
    with pytest.raises(Conflict, match="is cancelled already"):
        cancel(database, jobs, waiting)
    running = queue_experiment(database, jobs)
    claim = claimed(jobs)
    assert cancel(database, jobs, running) == "running"
    assert jobs.heartbeat(claim, {}) is True
    with jobs.fenced(claim) as session:
        jobs.end(session, claim, "cancelled")
    assert state_of(database, running) == ("cancelled", "cancelled")


def test_what_was_interrupted_and_is_cancelled_still_keeps_what_it_learned(database: Database, jobs: Jobs) -> None:
    experiment = queue_experiment(database, jobs)
    claim = claimed(jobs)
    jobs.heartbeat(claim, {"share": 0.5})
    jobs.give_back(claim)
    assert cancel(database, jobs, experiment) == "running"
    assert jobs.heartbeat(claimed(jobs), {"share": 0.5}) is True


def test_a_stage_that_scores_again_replaces_its_scores(database: Database) -> None:
    evaluations = Evaluations(database)
    for score in (1.0, 2.0):
        with database.writing() as session:
            evaluations.remember(session, None, "a" * 64, "b" * 64, "replay", {"bits_per_byte": score}, 10)
    (kept,) = evaluations.latest(None, 10)
    assert (kept.state, kept.evaluation.metrics) == ("succeeded", {"bits_per_byte": 2.0})
    with database.writing() as session:
        evaluations.remember(session, None, "a" * 64, "c" * 64, "new", {"bits_per_byte": 3.0}, 10)
    assert [each.evaluation.data_name for each in evaluations.latest(None, 10)] == ["new", "replay"]
