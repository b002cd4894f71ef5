"""The batch scheduler: who waits, who runs, who is in the next step; pure decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ml_service.inference.sequence import Sequence
from ml_service.inference.slots import Slots


class Scheduler:
    """First come, first served into slots; prompts are read in pieces, so that a long one never holds up the others.

    Where rows of all lengths can share a step, it has the next tokens of everybody who is past the prompt, and pieces
    of the other prompts. Where they can't, a piece of one prompt and the next tokens of the others take turns.
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

    def schedule(self, shares_steps: bool) -> tuple[list[Sequence], list[Sequence]]:
        """The next step: those whose prompts are read on, the oldest first, and those who get their next tokens."""
        reading = [sequence for sequence in self._running if sequence.needs_prefill]
        decoding = self.decoding
        if shares_steps or not (reading and decoding):
            self._was_prefill = False
            return (reading if shares_steps else reading[:1]), decoding
        self._was_prefill = not self._was_prefill
        return (reading[:1], []) if self._was_prefill else ([], decoding)

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
