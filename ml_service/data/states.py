"""Changing a state: only from the states that allow it, and by one row exactly."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from ml_service.common.errors import Conflict
from ml_service.data.tables import DataBatch, Deployment, Evaluation, Experiment, Job

WithState = DataBatch | Deployment | Evaluation | Experiment | Job


def change_state(
    session: Session, table: type[WithState], row_id: int, allowed: tuple[str, ...], to: str, **values: Any
) -> None:
    """`UPDATE … WHERE id = :id AND state IN (:allowed)`. Raises Conflict where the row is in none of them."""
    statement = update(table).where(table.id == row_id, table.state.in_(allowed)).values(state=to, **values)
    result = session.execute(statement)
    assert isinstance(result, CursorResult), "an update tells how many rows it changed"
    if result.rowcount != 1:
        found = session.scalar(select(table.state).where(table.id == row_id))
        where = f"is {found}" if found is not None else "does not exist"
        raise Conflict(f"{table.__name__.lower()} {row_id} {where}: it cannot become {to}")
