"""The doctor's findings, as tests read them; and a store with a database of either kind."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.schema import migrate
from ml_service.pipeline.doctor.finding import Check, Finding, Patient
from ml_service.pipeline.doctor.ledger import Ledger


def patient_of(settings: Settings) -> Patient:
    return Patient(settings, Ledger(settings))


def told(check: Check, settings: Settings) -> list[Finding]:
    return list(check(patient_of(settings)))


def only(findings: Iterable[Finding], verdict: str) -> Finding:
    (found,) = [finding for finding in findings if finding.verdict == verdict]
    assert found.advice is not None, "who is told that something is wrong is told what to do"
    return found


def is_well(findings: Iterable[Finding]) -> bool:
    return {finding.verdict for finding in findings} == {"ok"}


@pytest.fixture
def known(settings: Settings, database_url: str | None, database: Database) -> Settings:
    """With a database of either kind, migrated."""
    migrate(database)
    changes = {"database_url": None if database_url is None else Settings(database_url=database_url).database_url}
    return settings.model_copy(update={"port": 0, **changes})
