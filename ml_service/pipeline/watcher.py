"""Who is under watch: a deployment that has just replaced another, and a canary for as long as it is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ml_service.common.settings import Settings
from ml_service.data.deployments import Slot
from ml_service.inference.handles import Handles
from ml_service.inference.track_record import Seen, TrackRecord
from ml_service.pipeline.watch import Limits, Verdict, is_over, judge

_SETTLING_S = 5.0


@dataclass(frozen=True)
class Watch:
    """A deployment under watch and what it is compared with."""

    deployment_id: int
    role: Literal["active", "canary"]
    record: TrackRecord
    before: Callable[[], Seen]
    started: float

    def verdict(self, limits: Limits) -> Verdict:
        """By now; while the one before still ends its requests, speed tells nothing."""
        seen = self.record.seen()
        if time.monotonic() < self.started + _SETTLING_S:
            seen = replace(seen, paces=())
        return judge(self.before(), seen, limits)


class Watcher:
    """Told of every swap, asked now and then. A rollback is not watched: two models must not take turns for ever."""

    def __init__(self, settings: Settings) -> None:
        self.limits = Limits(
            settings.watch_s, settings.watch_requests, settings.watch_error_ratio, settings.watch_p95_factor
        )
        self.watches: tuple[Watch, ...] = ()

    def swapped(self, before: Handles, after: Handles, slot: Slot) -> None:
        """Begin and end watches as the models come and go."""
        if not self.limits.seconds:
            return
        kept = {watch.deployment_id: watch for watch in self.watches}
        fresh = [*_canary(after), *_replacement(before, after, slot)]
        present = {model.deployment_id for model in (after.active, after.canary) if model is not None}
        watches = {watch.deployment_id: watch for watch in fresh} | kept
        self.watches = tuple(watch for id_, watch in watches.items() if id_ in present)

    def verdict(self, watch: Watch) -> Verdict:
        """What its figures say by now."""
        return watch.verdict(self.limits)

    def is_over(self, watch: Watch) -> bool:
        """Whether it has stood the test; a canary is watched to its end."""
        elapsed_s = time.monotonic() - watch.started
        return watch.role == "active" and is_over(watch.record.seen(), elapsed_s, self.limits)

    def forget(self, watch: Watch) -> None:
        """It is decided."""
        self.watches = tuple(each for each in self.watches if each is not watch)


def _canary(after: Handles) -> Iterator[Watch]:
    """It is compared with what the active model does at the same time."""
    if after.canary is not None and after.active is not None and after.canary.deployment_id is not None:
        yield Watch(
            after.canary.deployment_id, "canary", after.canary.engine.record, after.active.engine.record.seen,
            time.monotonic(),
        )  # fmt: skip


def _replacement(before: Handles, after: Handles, slot: Slot) -> Iterator[Watch]:
    """It is compared with what the model before did last."""
    old, new = before.active, after.active
    if old is None or new is None or slot.active is None or old.deployment_id == new.deployment_id:
        return
    if slot.active.strategy == "replace":
        seen = old.engine.record.seen()
        yield Watch(slot.active.id, "active", new.engine.record, lambda: seen, time.monotonic())
