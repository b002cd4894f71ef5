"""A constraint whose next mask is still being computed: nobody else may ask the matcher meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from ml_service.inference.constraint import Constraint


class OneAtATime:
    """A matcher as llguidance has it: whoever asks it while it computes a mask gets an error."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.is_computing = threading.Event()
        self._turn = threading.Lock()

    def compute_bitmask(self) -> bytes:
        with self._turn:
            self.is_computing.set()
            assert self.may_go_on.wait(30)
        return b"\xff"

    def consume_token(self, _: int) -> None:
        self._ask()

    def is_stopped(self) -> bool:
        self._ask()
        return False

    def is_error(self) -> bool:
        self._ask()
        return False

    def _ask(self) -> None:
        if not self._turn.acquire(blocking=False):
            raise RuntimeError("Already mutably borrowed")
        self._turn.release()


def test_whether_an_answer_is_complete_is_known_while_the_next_mask_is_computed() -> None:
    matcher = OneAtATime()
    with ThreadPoolExecutor(1) as workers:
        matcher.may_go_on.set()
        constraint = Constraint(matcher, 8, workers)
        assert constraint.allowed().all()
        matcher.may_go_on.clear()
        matcher.is_computing.clear()
        constraint.accept(1)
        assert matcher.is_computing.wait(30)
        assert not constraint.is_complete
        matcher.may_go_on.set()
        assert constraint.allowed().all()
