"""The audit log: who did what to what, each event sealed with the hash of the one before."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lib.files import sha256_of_text
from ml_service.data.database import Database, now
from ml_service.data.tables import AuditEvent

_FIRST = "0" * 64


def record(
    database: Database,
    session: Session,
    actor: str,
    action: str,
    target: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an event in the very transaction that does what it tells."""
    database.lock_for_this_transaction(session, "audit")
    last = session.scalar(select(AuditEvent.hash).order_by(AuditEvent.id.desc()).limit(1))
    event = AuditEvent(
        at=now(), actor=actor, action=action, target=target, before=before or {}, after=after or {},
        previous_hash=last or _FIRST,
    )  # fmt: skip
    event.hash = _seal(event)
    session.add(event)
    session.flush()


def latest(database: Database, limit: int) -> list[AuditEvent]:
    """Newest first."""
    with database.reading() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)))


def verify(database: Database) -> tuple[int, str | None]:
    """How many events hold together, and what is wrong with the first one that does not."""
    expected, count = _FIRST, 0
    with database.reading() as session:
        for event in session.scalars(select(AuditEvent).order_by(AuditEvent.id).execution_options(yield_per=1000)):
            if event.previous_hash != expected:
                return count, f"event {event.id} does not follow the one before it: one was taken out or put in"
            if event.hash != _seal(event):
                return count, f"event {event.id} ({event.action} {event.target}) was changed"
            expected, count = event.hash, count + 1
    return count, None


def has_seal(database: Database, seal: str) -> bool:
    """Whether there is an event with this hash."""
    with database.reading() as session:
        return session.scalar(select(AuditEvent.id).where(AuditEvent.hash == seal)) is not None


def _seal(event: AuditEvent) -> str:
    told = [
        event.at.isoformat(), event.actor, event.action, event.target, event.before, event.after, event.previous_hash,
    ]  # fmt: skip
    return sha256_of_text(json.dumps(told, sort_keys=True, ensure_ascii=False))
