"""Curves: values by step, written in batches, replaced where a run goes over a step again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from ml_service.data.database import Database
from ml_service.data.tables import MetricLatest, MetricPoint

_AXES = ("step", "tokens", "seconds")
_ROWS_PER_INSERT = 500


class Series:
    """The curves of all experiments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, session: Session, experiment_id: int, points: Iterable[Mapping[str, Any]]) -> None:
        """Add points as a run's progress log has them: `step`, `tokens`, `seconds` and any number of values."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for point in points:
            for key, value in point.items():
                if key not in _AXES:
                    axes = {"tokens": int(point["tokens"]), "seconds": float(point["seconds"])}
                    step = int(point["step"])
                    rows[key, step] = {
                        "experiment_id": experiment_id, "key": key, "step": step, "value": float(value), **axes,
                    }  # fmt: skip
        self._upsert(session, MetricPoint, list(rows.values()), ["experiment_id", "key", "step"])
        latest: dict[str, dict[str, Any]] = {}
        for (key, step), row in sorted(rows.items()):
            latest[key] = {"experiment_id": experiment_id, "key": key, "step": step, "value": row["value"]}
        self._upsert(session, MetricLatest, list(latest.values()), ["experiment_id", "key"])

    def forget_after(self, session: Session, experiment_id: int, step: int) -> None:
        """A run goes on from a checkpoint: what came after it is not true any more."""
        for table in (MetricPoint, MetricLatest):
            session.execute(delete(table).where(table.experiment_id == experiment_id, table.step > step))

    def read(self, experiment_id: int, after_step: int = -1) -> dict[str, list[MetricPoint]]:
        """Key → points in the order of their steps."""
        wanted = select(MetricPoint).where(MetricPoint.experiment_id == experiment_id, MetricPoint.step > after_step)
        return self._curves(wanted)

    def thinned(self, experiment_id: int, most: int) -> dict[str, list[MetricPoint]]:
        """Key → at most so many of its points, evenly chosen, the first and the last among them.

        The database chooses: of a long run, reading all of them would cost a second.
        """
        place = func.row_number().over(partition_by=MetricPoint.key, order_by=MetricPoint.step)
        count = func.count().over(partition_by=MetricPoint.key)
        numbered = (
            select(MetricPoint, (place - 1).label("place"), (count - 1).label("last"))
            .where(MetricPoint.experiment_id == experiment_id)
            .subquery()
        )
        # A point is chosen where one of `most - 1` equal shares of the way from the first to the last is full.
        way, gone = func.nullif(numbered.c.last, 0), numbered.c.place * (most - 1)
        fills = gone // way != (gone - (most - 1)) // way
        point = aliased(MetricPoint, numbered)
        return self._curves(select(point).where(or_(numbered.c.last < most, numbered.c.place == 0, fills)), point)

    def latest(self, experiment_ids: Sequence[int]) -> dict[int, dict[str, float]]:
        """Experiment → key → its latest value."""
        wanted = select(MetricLatest).where(MetricLatest.experiment_id.in_(experiment_ids))
        values: dict[int, dict[str, float]] = {each: {} for each in experiment_ids}
        with self._database.reading() as session:
            for row in session.scalars(wanted):
                values[row.experiment_id][row.key] = row.value
        return values

    def last_steps(self, experiment_id: int) -> dict[str, int]:
        """Key → its latest step."""
        wanted = select(MetricLatest.key, MetricLatest.step).where(MetricLatest.experiment_id == experiment_id)
        with self._database.reading() as session:
            return {row.key: row.step for row in session.execute(wanted)}

    def count(self, experiment_id: int) -> int:
        """How many points there are."""
        with self._database.reading() as session:
            wanted = select(func.count()).select_from(MetricPoint).where(MetricPoint.experiment_id == experiment_id)
            return session.scalar(wanted) or 0

    def _curves(
        self, wanted: Select[MetricPoint], point: type[MetricPoint] = MetricPoint
    ) -> dict[str, list[MetricPoint]]:
        curves: defaultdict[str, list[MetricPoint]] = defaultdict(list)
        with self._database.reading() as session:
            for row in session.scalars(wanted.order_by(point.key, point.step)):
                curves[row.key].append(row)
        return dict(curves)

    def _upsert(
        self, session: Session, table: type[MetricPoint | MetricLatest], rows: list[dict[str, Any]], key: list[str]
    ) -> None:
        insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        for start in range(0, len(rows), _ROWS_PER_INSERT):
            piece = rows[start : start + _ROWS_PER_INSERT]
            statement: Any = insert(table).values(piece)
            changed = {name: statement.excluded[name] for name in piece[0] if name not in key}
            session.execute(statement.on_conflict_do_update(index_elements=key, set_=changed))
