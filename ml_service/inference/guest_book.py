"""Guests: models that are open beside the deployed ones while somebody asks for them; pure accounting."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from ml_service.inference.engine import Engine
from ml_service.inference.live import LiveModel


class GuestBook:
    """Who is there, by experiment, and since when nobody asks for it. Its owner holds a lock around every change."""

    def __init__(self) -> None:
        self.models: Mapping[str, LiveModel] = {}
        """By the experiment's number. Replaced and never changed, so that it can be read without the lock."""
        self._idle_since: dict[Engine, float] = {}
        """Counted from the coming, and from the end of the last request."""

    def add(self, guest: LiveModel) -> None:
        """A guest comes."""
        assert guest.experiment_id is not None, "a guest is asked for by its experiment"
        self.models = {**self.models, str(guest.experiment_id): guest}
        self._idle_since[guest.engine] = time.monotonic()

    def rests(self, engine: Engine) -> bool:
        """Its last request is over; False where it is no guest's engine."""
        if engine not in self._idle_since:
            return False
        self._idle_since[engine] = time.monotonic()
        return True

    def idle(self, in_use: Collection[Engine], for_s: float = 0.0) -> list[str]:
        """Those that nobody has used for so long; the one that was asked longest ago goes first."""
        before = time.monotonic() - for_s
        since = {name: self._idle_since[guest.engine] for name, guest in self.models.items()}
        idle = [name for name in since if since[name] <= before and self.models[name].engine not in in_use]
        return sorted(idle, key=lambda name: since[name])

    def remove(self, names: Iterable[str]) -> list[Engine]:
        """These go; their engines."""
        left = dict(self.models)
        gone = [left.pop(name).engine for name in names]
        self.models = left
        for engine in gone:
            del self._idle_since[engine]
        return gone
