"""The batch scheduler: who waits, who runs, who is in the next step; pure decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ml_service.inference.sequence import Sequence
from ml_service.inference.slots import Slots


class Scheduler:
    """First come, first served into slots; prompts are read in pieces between decode steps.

    A step is one piece of one prompt, or the next tokens of every sequence that is past its prompt: so a long prompt
    holds up the running ones by at most a piece at a time.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._was_prefill = False

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences with a slot."""
        return len(self._running)

    @property
    def cached_tokens(self) -> int:
        """Tokens in the slots of those who run; may be asked from another thread."""
        return sum(sequence.cached for sequence in tuple(self._running))

    @property
    def has_work(self) -> bool:
        """Whether there is anyone to serve."""
        return bool(self._waiting or self._running)

    @property
    def decoding(self) -> list[Sequence]:
        """Those who are past their prompt."""
        return [sequence for sequence in self._running if not sequence.needs_prefill]

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Give free slots to those who wait; returns those who got one."""
        admitted = []
        while self._waiting and (slot := self._slots.take()) is not None:
            sequence = self._waiting.popleft()
            sequence.slot = slot
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def schedule(self) -> Sequence | list[Sequence]:
        """The next step: one whose prompt is read on, or those who get their next tokens (none where nobody runs)."""
        unread = next((sequence for sequence in self._running if sequence.needs_prefill), None)
        decoding = self.decoding
        if unread is not None and (not decoding or not self._was_prefill):
            self._was_prefill = True
            return unread
        self._was_prefill = False
        return decoding

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and its slot back."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        self._slots.give_back(sequence.slot)
        sequence.slot = None

    def those(self, condition: Callable[[Sequence], bool]) -> list[Sequence]:
        """All for whom it holds."""
        return [sequence for sequence in self.everyone() if condition(sequence)]

    def everyone(self) -> list[Sequence]:
        """All who wait or run."""
        return [*self._waiting, *self._running]
