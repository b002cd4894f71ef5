"""The request log: a sample of what was asked, for a while; texts only where that is switched on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import insert

from ml_service.data.database import Database, now
from ml_service.data.tables import LoggedRequest


class RequestLog:
    """Rows that go in together and leave by themselves (`pipeline/retention.py`)."""

    def __init__(self, database: Database, keep_days: float) -> None:
        self._database, self._keep = database, timedelta(days=keep_days)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows: columns of the table but for `created` and `expires`."""
        if not rows:
            return
        moment = now()
        stamps = {"created": moment, "expires": moment + self._keep}
        with self._database.writing() as session:
            session.execute(insert(LoggedRequest), [_storable(row) | stamps for row in rows])


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """A model may well write the character NUL, and PostgreSQL keeps none."""
    return {name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in row.items()}
