"""Replicas: the serving processes of a store, what each has loaded, and whether its heart still beats."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select

from ml_service.data.database import Database, now
from ml_service.data.tables import Replica

BEAT_S = 5.0
FRESH_S = 3 * BEAT_S
"""Who has not been heard of for so long does not live. Clocks of several machines must agree to within this."""
_KEPT = timedelta(hours=1)


class Replicas:
    """The rows of serving processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, replica: Replica) -> None:
        """Tell that a process lives and what it has loaded; those that died long ago are forgotten."""
        replica.heartbeat = now()
        with self._database.writing() as session:
            session.merge(replica)
            session.execute(delete(Replica).where(Replica.heartbeat < replica.heartbeat - _KEPT))

    def living(self) -> list[Replica]:
        """Those that were heard of lately."""
        with self._database.reading() as session:
            return list(session.scalars(select(Replica).where(fresh()).order_by(Replica.id)))

    def leave(self, replica_id: str) -> None:
        """A process ends in order."""
        with self._database.writing() as session:
            session.execute(delete(Replica).where(Replica.id == replica_id))


def fresh() -> ColumnElement[bool]:
    """That a replica was heard of lately."""
    return Replica.heartbeat >= now() - timedelta(seconds=FRESH_S)
