"""A serving process among others: it follows the slot, tells what it has, changes the slot, watches what is new."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from ml_service.common.errors import CANNOT_WRITE_NOW, BundleRefused, Conflict, NotFound, ServiceError, Unavailable
from ml_service.common.settings import Settings
from ml_service.common.types import Trial
from ml_service.data import tables
from ml_service.data.database import Database
from ml_service.data.deployments import CHANNEL, Deployments, Fault, Order
from ml_service.data.experiments import StoredBundle
from ml_service.data.jobs import Jobs
from ml_service.data.listener import Listener
from ml_service.data.replicas import BEAT_S, Replicas
from ml_service.data.schema import migrate
from ml_service.data.tables import Deployment
from ml_service.inference.handles import Handles, Live
from ml_service.inference.live import LiveModel
from ml_service.pipeline.deploy import GATE, Deployer
from ml_service.pipeline.guests import Guests
from ml_service.pipeline.slot_models import Candidate, SlotModels
from ml_service.pipeline.watch import Limits, Verdict
from ml_service.pipeline.watcher import Watch, Watcher
from ml_service.utils.handing_on import CONTEXT, taken_up
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry
from ml_service.utils.tracing import span, tracer

log = EventLogger("replica")
_LOOK_S = 2.0
"""How often the slot is looked at; PostgreSQL wakes us sooner."""
_WATCH_S = 0.5
"""How often while something is under watch."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 4.0, 60.0
_ACTOR = "watch"
Result = TypeVar("Result")


class Replica:
    """Whatever changes the models of this process comes through here, one change at a time."""

    def __init__(self, database: Database, settings: Settings, live: Live, telemetry: Telemetry) -> None:
        self._database, self._live, self._telemetry = database, live, telemetry
        self._deployments, self._replicas = Deployments(database), Replicas(database)
        self._watcher = Watcher(settings)
        self._models = SlotModels(database, settings, live, telemetry, self._watcher.swapped)
        self._deployer = Deployer(database, settings, self._open_candidate)
        self._guests = Guests(database, settings, live, telemetry, self._in_turn)
        self._candidate: Candidate | None = None
        self._turn, self._wake = asyncio.Lock(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._host = socket.gethostname()
        self.id = f"{self._host}:{os.getpid()}:{secrets.token_hex(4)}"
        self.trouble: str | None = None
        """What is wrong with what this process has loaded, in words."""
        self._retry_at, self._retry_s, self._refused_generation = 0.0, _FIRST_RETRY_S, -1
        self._is_database_away = False
        self._beaten_at = 0.0

    def open_at_start(self) -> None:
        """Bring the schema to its newest state and let the slot's model answer, unless one does.

        Raises BundleRefused, in words, where nothing can be opened; Unavailable where the database is away.
        """
        migrate(self._database)
        if not self._live.is_open:
            self._tell_trouble(self._models.open_at_start())

    async def deploy(self, order: Order) -> Deployment:
        """Prove, remember, swap; it answers here when this returns. Raises as `Deployer.deploy`."""
        return await self._change(order.strategy, lambda: self._deployer.deploy(order))

    async def roll_back(self, actor: str, reason: str, key: str | None) -> Deployment:
        """Back to what answered before; it answers here when this returns. Raises as `Deployer.roll_back`."""
        return await self._change("rollback", lambda: self._deployer.roll_back(actor, reason, key))

    async def end(self, trial: Trial, actor: str, reason: str) -> Deployment:
        """Take the shadow or canary away. Raises NotFound where there is none."""
        return await self._change("end", lambda: self._deployer.end(trial, actor, reason))

    async def guest(self, name: str) -> LiveModel:
        """Take the model of an experiment that need not be deployed. Raises as `Guests.take`."""
        return await self._guests.take(name)

    def loaded(self) -> tuple[int, int]:
        """How many of the living replicas have what the slot says, and how many there are; tells of this one first."""
        self._beat()
        generation, living = self._deployments.generation(), self._replicas.living()
        return sum(each.generation >= generation for each in living), len(living)

    def watched(self) -> dict[int, Verdict]:
        """What is under watch here, by deployment."""
        return {watch.deployment_id: self._watcher.verdict(watch) for watch in self._watcher.watches}

    @property
    def limits(self) -> Limits:
        """What is under watch must keep to."""
        return self._watcher.limits

    @property
    def handles(self) -> Handles:
        """What answers here."""
        return self._live.handles

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the slot in the background while the block runs."""
        ends, loop, listener = asyncio.Event(), asyncio.get_running_loop(), None
        if self._database.is_postgresql:
            listener = Listener(self._database, CHANNEL, lambda: _set_from_elsewhere(loop, self._wake))
        task = asyncio.create_task(self._follow(ends))
        try:
            yield
        finally:
            ends.set()
            self._wake.set()
            await task
            await self._guests.end()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if listener is not None:
                await asyncio.to_thread(listener.close)
            with suppress(*CANNOT_WRITE_NOW):
                await asyncio.to_thread(self._replicas.leave, self.id)

    async def _follow(self, ends: asyncio.Event) -> None:
        while not ends.is_set():
            self._wake.clear()
            self._guests.close_idle()
            try:
                await self._look()
                self._is_database_away = False
            except CANNOT_WRITE_NOW as away:
                if not self._is_database_away:
                    log.warning("replica.database_away", reason=str(away))
                self._is_database_away = True
            except Exception:  # whatever it was: who follows no longer would be stale for good
                log.exception("replica.look_failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _WATCH_S if self._watcher.watches else _LOOK_S)

    async def _look(self) -> None:
        generation = await asyncio.to_thread(self._deployments.generation)
        is_due = generation != self._refused_generation or time.monotonic() >= self._retry_at
        if generation != self._live.handles.generation and is_due:
            handed = await asyncio.to_thread(self._wish_behind) if tracer() is not None else {}
            with taken_up(handed) as above, span("follow slot", handed=above, ml_service__generation=generation):
                await self._in_turn(self._converge)
            self._beaten_at = 0.0
        for watch in self._watcher.watches:
            await self._judge(watch)
        if time.monotonic() >= self._beaten_at + BEAT_S:
            await asyncio.to_thread(self._beat)

    def _wish_behind(self) -> Mapping[str, str]:
        """Of whom it was that what the gate let through is to answer: the request to retrain, hours ago."""
        active = self._deployments.slot().active
        if active is None or active.actor != GATE:
            return {}
        job = Jobs(self._database).of_experiment(active.experiment_id)
        return job.payload.get(CONTEXT, {}) if job is not None else {}

    async def _judge(self, watch: Watch) -> None:
        verdict = self._watcher.verdict(watch)
        if verdict.fault is None:
            if self._watcher.is_over(watch):
                self._watcher.forget(watch)
                await asyncio.to_thread(self._deployments.add_outcome, watch.deployment_id, {"watch": verdict.figures})
            return
        fault = Fault(verdict.fault, {"watch": verdict.figures})
        log.warning("watch.broken", deployment=watch.deployment_id, reason=verdict.fault)
        self._watcher.forget(watch)
        try:
            await self._change("auto_rollback", lambda: self._take_back(watch, fault))
        except (Conflict, NotFound) as too_late:  # somebody was faster, or there is nothing to go back to
            log.warning("watch.not_taken_back", deployment=watch.deployment_id, reason=str(too_late))

    def _take_back(self, watch: Watch, fault: Fault) -> Deployment:
        if watch.role == "canary":
            return self._deployer.end("canary", _ACTOR, f"auto_rollback: {fault.sentence}", fault, watch.deployment_id)
        return self._deployer.roll_back(_ACTOR, fault=fault, of=watch.deployment_id)

    async def _change(self, what: str, change: Callable[[], Deployment]) -> Deployment:
        def work() -> Deployment:
            started = time.perf_counter()
            try:
                deployment = change()
                self._converge()
            finally:
                self._drop_candidate()
            if what != "end":
                self._telemetry.deploy_seconds.set(time.perf_counter() - started)
            return deployment

        if self._live.is_draining:
            raise Unavailable("the service is shutting down", retry_after_s=5)
        try:
            with span(f"change slot: {what}"):
                deployment = await self._in_turn(work)
        except ServiceError as refused:
            result = "failed" if isinstance(refused, BundleRefused | Unavailable) else "refused"
            self._telemetry.deployments.labels(result, what).inc()
            raise
        self._telemetry.deployments.labels("ok", what).inc()
        self._wake.set()  # there may be something to watch
        return deployment

    async def _in_turn(self, work: Callable[[], Result]) -> Result:
        """In a thread, one after the other, and to its end: the client who asked may leave, the change goes on."""

        async def take_turn() -> Result:
            async with self._turn:
                return await asyncio.to_thread(work)

        task = asyncio.create_task(take_turn())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _open_candidate(self, stored: StoredBundle, order: Order) -> None:
        self._drop_candidate()
        self._candidate = self._models.candidate(stored, order)

    def _drop_candidate(self) -> None:
        candidate, self._candidate = self._candidate, None
        if candidate is not None:
            candidate.model.engine.stop()

    def _converge(self) -> None:
        candidate, self._candidate = self._candidate, None
        self._tell_trouble(self._models.converge(candidate))

    def _tell_trouble(self, trouble: str | None) -> None:
        self.trouble = trouble
        if trouble is None:
            self._refused_generation, self._retry_s = -1, _FIRST_RETRY_S
            return
        self._refused_generation = self._deployments.generation()
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)

    def _beat(self) -> None:
        self._beaten_at = time.monotonic()
        row = tables.Replica(
            id=self.id, host=self._host, pid=os.getpid(), generation=self._live.handles.generation,
            state="ready" if self.trouble is None else "behind", detail=self.trouble,
        )  # fmt: skip
        self._replicas.beat(row)


def _set_from_elsewhere(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(event.set)
