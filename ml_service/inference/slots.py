"""KV-cache slots: take one, give it back; pure accounting."""

from __future__ import annotations

import heapq


class Slots:
    """The lowest free slot is taken first, so that the busy ones stay together."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._taken: set[int] = set()

    @property
    def taken(self) -> int:
        """How many are in use."""
        return len(self._taken)

    def take(self) -> int | None:
        """A free slot, or None where all are taken."""
        if not self._free:
            return None
        slot = heapq.heappop(self._free)
        assert slot not in self._taken, "a taken slot was handed out again: this is a bug"
        self._taken.add(slot)
        return slot

    def give_back(self, slot: int) -> None:
        """Free a slot that was taken."""
        assert slot in self._taken, "a slot was given back twice: this is a bug"
        self._taken.remove(slot)
        heapq.heappush(self._free, slot)
