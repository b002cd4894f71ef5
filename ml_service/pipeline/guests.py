"""Guests: any experiment's model, opened because a request names it, and closed when nobody asks for it any more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as with_changes

from lib.gently import gently
from ml_service.common.bundle import verify_files
from ml_service.common.errors import BundleRefused, DoesNotFit, Unavailable
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.experiments import Experiments, StoredBundle
from ml_service.inference.handles import Live, all_in_use, random_bucket
from ml_service.inference.live import LiveModel, open_live_model
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry

log = EventLogger("guests")
SLOTS = 4
"""Of a guest: it is there to be looked at, and must leave the memory to who is deployed."""
_ROLES = ("active", "shadow", "canary")
_MEMORY_RETRY_S = 30.0
InTurn = Callable[[Callable[[], None]], Awaitable[None]]
"""Does it in a thread and to its end, when nothing else changes the models of the process."""


class Guests:
    """Takes the models of experiments that are not deployed; called from one event loop."""

    def __init__(
        self, database: Database, settings: Settings, live: Live, telemetry: Telemetry, in_turn: InTurn
    ) -> None:
        self._settings, self._live, self._telemetry, self._in_turn = settings, live, telemetry, in_turn
        self._experiments = Experiments(database, settings.store)
        self._one_opening = asyncio.Lock()
        """Around the turn, so that a deployment never waits for more than one guest."""
        self._openings: dict[int, asyncio.Task[None]] = {}
        self._wanted: Counter[int] = Counter()
        """Requests that wait for an experiment's model."""

    async def take(self, name: str) -> LiveModel:
        """The model of an experiment's number or name, opened where it is not; it is given back as `Live.take` says.

        Raises NotFound, in words; Conflict where it has no bundle; BundleRefused where that does not prove itself;
        Overloaded where all places are in use; Unavailable while draining and where the memory does not suffice.
        """
        if name in _ROLES or not self._settings.max_guests:
            return self._live.take(random_bucket, name)
        stored = await asyncio.to_thread(self._experiments.bundle_named, name)
        experiment_id = stored.experiment.id
        model = self._live.take_experiment(experiment_id)
        if model is not None:
            return model
        with self._place_for(experiment_id):
            while model is None:  # again where a deployment closed it before it was taken
                await self._opened(stored)
                model = self._live.take_experiment(experiment_id)
        return model

    def close_idle(self) -> None:
        """Close those that nobody has asked for a while."""
        self._live.dismiss_idle(self._settings.guest_idle_s)

    async def end(self) -> None:
        """Begin no further opening."""
        for task in self._openings.values():
            task.cancel()
        await asyncio.gather(*self._openings.values(), return_exceptions=True)

    @contextmanager
    def _place_for(self, experiment_id: int) -> Iterator[None]:
        """Who waits for a guest keeps its place: others cannot take it before it has answered."""
        others = (self._live.guests_in_use() | set(self._wanted)) - {experiment_id}
        if len(others) >= self._settings.max_guests:
            raise all_in_use(self._settings.max_guests)
        self._wanted[experiment_id] += 1
        try:
            yield
        finally:
            self._wanted[experiment_id] -= 1
            if not self._wanted[experiment_id]:
                del self._wanted[experiment_id]

    async def _opened(self, stored: StoredBundle) -> None:
        """All who want it wait for one opening, which goes on where they leave."""
        experiment_id = stored.experiment.id
        task = self._openings.get(experiment_id)
        if task is None:
            task = self._openings[experiment_id] = asyncio.create_task(self._open_in_turn(stored))
            task.add_done_callback(lambda done: self._forget(experiment_id, done))
        await asyncio.shield(task)

    def _forget(self, experiment_id: int, done: asyncio.Task[None]) -> None:
        del self._openings[experiment_id]
        if not done.cancelled():
            done.exception()  # who wanted it has been told, or has left

    async def _open_in_turn(self, stored: StoredBundle) -> None:
        async with self._one_opening:
            await self._in_turn(lambda: self._open(stored))

    def _open(self, stored: StoredBundle) -> None:
        if self._live.of_experiment(stored.experiment.id) is not None:
            return  # deployed meanwhile
        try:
            stored.check()
            verify_files(stored.path)  # a damaged one must not cost another guest its place
            self._live.make_room(self._settings.max_guests, set(self._wanted))
            model = self._proved(stored)
        except DoesNotFit as full:
            sentence = f"there is no room for experiment {stored.experiment.id} beside what answers: {full}"
            raise Unavailable(sentence, _MEMORY_RETRY_S) from full
        except OSError as error:  # removed while it was read
            raise BundleRefused(f"the bundle of experiment {stored.experiment.id} cannot be read") from error
        try:
            self._live.welcome(model)
        except Unavailable:
            model.engine.stop()
            raise
        log.info("guest.opened", experiment=stored.experiment.id)

    def _proved(self, stored: StoredBundle) -> LiveModel:
        """With little urgency: where the processor is wanted by what is deployed, a guest gives way."""
        own = {"slots": min(self._settings.slots or SLOTS, SLOTS), "prefix_cache_mib": 0}
        settings = self._settings.model_copy(update=own)
        others = {model.engine: model for model in self._live.models.values()}
        spared_bytes = sum(engine.cache_bytes for engine in others)
        model = gently(lambda: open_live_model(stored.path, settings, self._telemetry, others.values(), spared_bytes))
        return with_changes(model, experiment_id=stored.experiment.id)
