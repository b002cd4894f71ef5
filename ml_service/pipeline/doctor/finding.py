"""Findings, and checks that are run side by side and never waited for longer than they are worth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from ml_service.common.settings import Settings
from ml_service.pipeline.doctor.ledger import Ledger

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and what to do about it."""

    subject: str
    verdict: Verdict
    found: str
    advice: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return asdict(self)


def ok(subject: str, found: str) -> Finding:
    """As it should be."""
    return Finding(subject, "ok", found)


def warn(subject: str, found: str, advice: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(subject, "warn", found, advice)


def fail(subject: str, found: str, advice: str) -> Finding:
    """It does not work, or will not."""
    return Finding(subject, "fail", found, advice)


@dataclass(frozen=True)
class Patient:
    """What is looked at."""

    settings: Settings
    ledger: Ledger
    """The database, read only."""


Check = Callable[[Patient], Iterable[Finding]]


def examine(patient: Patient, checks: Mapping[str, Check], patience_s: float) -> Iterable[Sequence[Finding]]:
    """The findings of each check, in their order; all run at once, and one that does not end in time has failed."""
    deadline = time.monotonic() + patience_s
    running = [_Running(patient, subject, check) for subject, check in checks.items()]
    for each in running:
        yield each.findings(deadline, patience_s)


class _Running:
    """A check in a thread, which the process does not wait for when it ends."""

    def __init__(self, patient: Patient, subject: str, check: Check) -> None:
        self._patient, self._subject, self._check = patient, subject, check
        self._found: Sequence[Finding] | None = None
        self._thread = threading.Thread(target=self._run, name=f"doctor-{subject}", daemon=True)
        self._thread.start()

    def findings(self, deadline: float, patience_s: float) -> Sequence[Finding]:
        """Wait until the deadline at most."""
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._found is not None:
            return self._found
        return [fail(self._subject, f"no answer within {patience_s:g} s", "what it depends on hangs: look there first")]

    def _run(self) -> None:
        try:
            self._found = list(self._check(self._patient))
        except Exception as error:  # a check that breaks is a finding, and the others go on
            told = str(error) or type(error).__name__
            self._found = [fail(self._subject, told, "this could not be looked at; the sentence says why")]
