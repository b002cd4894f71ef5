"""Places for requests: so many may run, so many may wait; the next one hears when to come back."""

from __future__ import annotations

import threading

from ml_service.common.errors import BadRequest, Overloaded, Unavailable
from ml_service.utils.telemetry import Telemetry

_SMOOTHING = 0.1
_FIRST_ESTIMATE_S = 0.1


class Admission:
    """Counts places; safe from any thread."""

    def __init__(self, slots: int, max_waiting: int, telemetry: Telemetry) -> None:
        self._slots, self._max_waiting, self._telemetry = slots, max_waiting, telemetry
        self._places = slots + max_waiting
        self._lock = threading.Lock()
        self._taken = 0
        self._is_closed = False
        self._seconds_per_request = _FIRST_ESTIMATE_S

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken

    def take(self, count: int) -> bool:
        """Take so many places or none; returns whether nobody was there before.

        Raises Overloaded with the time after which a place should be free, by how long the last requests kept their
        slots; BadRequest for more than there are at all; Unavailable after `close`.
        """
        with self._lock:
            if self._is_closed:
                raise Unavailable("the model is being taken out of service")
            if count > self._places:
                raise BadRequest(f"{count} answers at once are more than the {self._places} places of this service")
            if self._taken + count > self._places:
                raise self.refusal(count)
            was_idle = self._taken == 0
            self._taken += count
            return was_idle

    @property
    def is_full(self) -> bool:
        """Whether not even one more would be taken."""
        return self._taken >= self._places

    def refusal(self, count: int = 1) -> Overloaded:
        """What so many hear who get no place; counts them."""
        self._telemetry.rejections.labels("queue_full").inc(count)
        self._telemetry.finished.labels("rejected").inc(count)
        return Overloaded(
            f"all {self._slots} slots and {self._max_waiting} waiting places are taken",
            self._seconds_per_request * (self._taken + count - self._max_waiting) / self._slots,
        )

    def give_back(self) -> None:
        """Free a place."""
        with self._lock:
            self._taken -= 1

    def learn(self, seconds_in_slot: float) -> None:
        """A request kept its slot so long."""
        self._seconds_per_request += _SMOOTHING * (seconds_in_slot - self._seconds_per_request)

    def close(self) -> None:
        """Take nobody any more."""
        with self._lock:
            self._is_closed = True
