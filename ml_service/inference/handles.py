"""Which models answer: the slot's, swapped by one reference, and guests beside it; none is closed while it answers."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from lib.memory import give_back_freed_pages
from ml_service.common.errors import NotFound, Overloaded, Unavailable
from ml_service.inference.engine import Engine, Observer
from ml_service.inference.guest_book import GuestBook
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Finished, Sequence
from ml_service.inference.shadow import Shadow
from ml_service.utils.logs import EventLogger

log = EventLogger("live")
ACTIVE = "active"
BUCKETS = 10_000
"""Requests are spread over so many; a canary answers the first of them."""
_CLOSE_TIMEOUT_S = 30.0
_PLACE_RETRY_S = 5.0


@dataclass(frozen=True)
class Handles:
    """The models of the slot, as one immutable thing."""

    generation: int = 0
    """Of the slot that they make true."""
    active: LiveModel | None = None
    canary: LiveModel | None = None
    percent: float = 0.0
    """Of the requests, for the canary."""
    shadow: Shadow | None = None

    def models(self) -> dict[str, LiveModel]:
        """By every name: their roles, then their experiments' names and ids; the active one goes before the others."""
        shadow = self.shadow.model if self.shadow is not None else None
        roles = {ACTIVE: self.active, "canary": self.canary, "shadow": shadow}
        named = {role: model for role, model in roles.items() if model is not None}
        for model in tuple(named.values()):
            named.setdefault(model.manifest.experiment, model)
            if model.experiment_id is not None:
                named.setdefault(str(model.experiment_id), model)
        return named

    def engines(self) -> frozenset[Engine]:
        """Those of all models."""
        return frozenset(model.engine for model in self.models().values())


class Live:
    """Holds the models that answer. A request takes the one that it will end on, and gives it back."""

    def __init__(self) -> None:
        self.watch: Callable[[LiveModel, Sequence, Finished], None] | None = None
        """Told of every request that was answered, and by which model, but for what a shadow is asked; set at start."""
        self._handles = Handles()
        self._is_draining = False
        self._lock = threading.Lock()
        """Guards what follows, and the moment in which a request reads the handles and counts itself."""
        self._users: Counter[Engine] = Counter()
        self._serving: frozenset[Engine] = frozenset()
        """Of the handles."""
        self._open: set[Engine] = set()
        """Those, the guests', and the ones that only end what they have begun."""
        self._guests = GuestBook()
        self._closing: list[threading.Thread] = []

    @property
    def handles(self) -> Handles:
        """What answers now."""
        return self._handles

    @property
    def current(self) -> LiveModel:
        """The active model. Raises Unavailable while starting and draining."""
        if self._is_draining:
            raise Unavailable("the service is shutting down", retry_after_s=5)
        if self._handles.active is None:
            raise Unavailable("no model is deployed yet", retry_after_s=1)
        return self._handles.active

    @property
    def models(self) -> dict[str, LiveModel]:
        """Those that are open, by every name, guests by their number. Raises Unavailable while starting, draining."""
        _ = self.current
        named = self._handles.models()
        for name, guest in self._guests.models.items():
            named.setdefault(name, guest)
        return named

    @property
    def is_open(self) -> bool:
        """Whether there is a model."""
        return self._handles.active is not None

    @property
    def is_draining(self) -> bool:
        """Whether the process is about to end."""
        return self._is_draining

    @property
    def busy(self) -> int:
        """Requests that are not finished, on whichever model."""
        return self._users.total()

    def last_step_age_s(self) -> float:
        """How long an engine has not moved although it has work; the longest of all."""
        return max((engine.last_step_age_s() for engine in tuple(self._open)), default=0.0)

    def expect_place(self) -> None:
        """Raises Overloaded where no open model takes one more request, so that it need not be read at all."""
        active = self._handles.active
        if active is None or not active.engine.is_full:  # the usual case, at the price of a look
            return
        others = (*self._handles.models().values(), *self._guests.models.values())
        if all(model.engine.is_full for model in others):
            raise active.engine.refusal()

    def take(self, bucket: Callable[[], int], name: str = ACTIVE) -> LiveModel:
        """The model on which a request ends: `name` is a role, or an experiment's name or id.

        `bucket` is asked where there is a canary: 0 to 9,999, always the same for whom the choice should stick.
        Raises Unavailable while starting and draining, NotFound for a model that is not open.
        """
        with self._lock:
            model, handles = self.current, self._handles
            if name != ACTIVE:
                model = self.named(name)
            elif handles.canary is not None and bucket() < handles.percent / 100 * BUCKETS:
                model = handles.canary
            self._users[model.engine] += 1
            return model

    def named(self, name: str) -> LiveModel:
        """A model to look at, by any of its names. Raises Unavailable, NotFound."""
        models = self.models
        if name not in models:
            raise NotFound(f"there is no model {name!r} here: ask for {', '.join(models)}")
        return models[name]

    def take_experiment(self, experiment_id: int) -> LiveModel | None:
        """The same by number alone; None where it is not open. Raises Unavailable."""
        with self._lock:
            model = self.of_experiment(experiment_id)
            if model is not None:
                self._users[model.engine] += 1
            return model

    def of_experiment(self, experiment_id: int) -> LiveModel | None:
        """A deployed model goes before a guest. Raises Unavailable."""
        return next((model for model in self.models.values() if model.experiment_id == experiment_id), None)

    def give_back(self, model: LiveModel) -> None:
        """A request is over; a model that was swapped out is closed by its last one."""
        engine = model.engine
        with self._lock:
            self._users[engine] -= 1
            if self._users[engine]:
                return
            del self._users[engine]
            if engine not in self._serving and not self._guests.rests(engine):
                self._retire([engine])

    def swap(self, handles: Handles) -> None:
        """Let these answer from now on. Those that no longer do are closed as soon as nobody uses them."""
        for model in (handles.active, handles.canary):
            if model is not None:
                model.engine.observers = self._observers_of(model)
        if handles.active is not None and handles.shadow is not None:
            offer = handles.shadow.offer
            handles.active.engine.observers += (lambda sequence, end: offer(sequence.answered(end)),)
        with self._lock:
            deployed = {str(model.experiment_id) for model in handles.models().values()}
            self._dismiss([name for name in self._guests.models if name in deployed])
            left = self._serving - handles.engines()
            self._handles, self._serving = handles, handles.engines()
            self._open |= self._serving
            for engine in left:
                engine.observers = ()
            self._retire([engine for engine in left if not self._users[engine]])

    def hold(self, model: LiveModel) -> None:
        """Let this model answer alone."""
        self.swap(Handles(model.generation, model))

    def welcome(self, guest: LiveModel) -> None:
        """Let it answer who asks for its experiment. Raises Unavailable while draining."""
        guest.engine.observers = self._observers_of(guest)
        with self._lock:
            _ = self.current
            self._guests.add(guest)
            self._open.add(guest.engine)

    def guests_in_use(self) -> set[int]:
        """The experiments of those that answer somebody now."""
        with self._lock:
            return {int(name) for name, guest in self._guests.models.items() if guest.engine in self._users}

    def make_room(self, most: int, wanted: Collection[int]) -> None:
        """Close guests until there are fewer than `most`, but none in use or wanted; blocks until they are closed.

        The one that was asked longest ago goes first. Raises Overloaded where those that may go are too few.
        """
        with self._lock:
            may_go = [name for name in self._guests.idle(self._users) if int(name) not in wanted]
            surplus = max(len(self._guests.models) - most + 1, 0)
            if surplus > len(may_go):
                raise all_in_use(most)
            self._dismiss(may_go[:surplus])
        self._wait_for_closing()

    def dismiss_idle(self, for_s: float = 0.0, waits: bool = False) -> None:
        """Close the guests that nobody has used for so long; where it `waits` it blocks until they are closed."""
        if not self._guests.models:
            return
        with self._lock:
            self._dismiss(self._guests.idle(self._users, for_s))
        if waits:
            self._wait_for_closing()

    def drain(self) -> None:
        """Refuse new requests; running ones go on."""
        self._is_draining = True
        with self._lock:
            self._dismiss(list(self._guests.models))
        if self._handles.active is not None:
            self._handles.active.engine.observers = self._observers_of(self._handles.active)

    def close(self) -> None:
        """Stop every engine; blocks until their threads are gone."""
        with self._lock:
            self._handles, self._serving = Handles(), frozenset()
            self._dismiss(list(self._guests.models))
            self._retire(list(self._open))
        self._wait_for_closing()

    def _observers_of(self, model: LiveModel) -> tuple[Observer, ...]:
        return (partial(self.watch, model),) if self.watch is not None else ()

    def _dismiss(self, guests: list[str]) -> None:
        """Running requests end on them; nobody else gets them."""
        gone = self._guests.remove(guests)
        for engine in gone:
            engine.observers = ()
        self._retire([engine for engine in gone if engine not in self._users])

    def _wait_for_closing(self) -> None:
        with self._lock:
            closing = list(self._closing)
        for thread in closing:
            thread.join(_CLOSE_TIMEOUT_S)

    def _retire(self, engines: list[Engine]) -> None:
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        if engines := [engine for engine in engines if engine in self._open]:
            self._open -= set(engines)
            thread = threading.Thread(target=_close, args=(engines,), name="retire-model", daemon=True)
            self._closing.append(thread)
            thread.start()


def all_in_use(places: int) -> Overloaded:
    """There is no place for another guest."""
    taken = f"all {places} places" if places > 1 else "the one place"
    sentence = f"others use {taken} for models that are not deployed: ask again, or raise ML_SERVICE_MAX_GUESTS"
    return Overloaded(sentence, _PLACE_RETRY_S)


def random_bucket() -> int:
    """For a request that nothing is known of."""
    return random.randrange(BUCKETS)


def _close(engines: list[Engine]) -> None:
    for engine in engines:
        engine.stop()
    engines.clear()  # else this frame would hold on to what is to be freed
    give_back_freed_pages()
    log.info("model.closed")
