"""Curves: without doubles and holes, thinned evenly, with values that are no numbers; on both databases."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from ml_service.data.database import Database
from ml_service.data.series import Series
from tests.test_database import an_experiment


def points(steps: range) -> list[dict[str, float]]:
    return [{"step": step, "tokens": step * 10, "seconds": step / 2, "train_loss": 1 / (step + 1)} for step in steps]


def test_a_curve_has_no_doubles_and_no_holes_however_often_it_is_written(database: Database) -> None:
    series = Series(database)
    with database.writing() as session:
        experiment = an_experiment()
        session.add(experiment)
        session.flush()
    for upto in (30, 30, 45):
        with database.writing() as session:
            series.write(session, experiment.id, points(range(0, upto, 5)))
    with database.writing() as session:
        series.forget_after(session, experiment.id, 20)
    assert [point.step for point in series.read(experiment.id)["train_loss"]] == [0, 5, 10, 15, 20]
    with database.writing() as session:
        series.write(session, experiment.id, points(range(0, 2000)))
    curve = series.read(experiment.id)["train_loss"]
    assert [point.step for point in curve] == list(range(2000))
    assert [point.step for point in series.read(experiment.id, after_step=1997)["train_loss"]] == [1998, 1999]
    assert curve[10].tokens == 100
    assert series.latest([experiment.id]) == {experiment.id: {"train_loss": 1 / 2000}}
    assert series.last_steps(experiment.id) == {"train_loss": 1999}


@pytest.mark.parametrize(("count", "most"), [(1, 2), (2, 2), (3, 2), (10, 10), (11, 10), (100, 7), (2000, 500)])
def test_a_long_curve_is_thinned_evenly_from_its_first_to_its_last_point(
    database: Database, count: int, most: int
) -> None:
    series = Series(database)
    with database.writing() as session:
        experiment, other = an_experiment(), an_experiment()
        session.add_all([experiment, other])
        session.flush()
        series.write(session, experiment.id, points(range(count)))
        series.write(session, other.id, points(range(5)))
    steps = [point.step for point in series.thinned(experiment.id, most)["train_loss"]]
    assert (steps[0], steps[-1], len(steps)) == (0, count - 1, min(count, most))
    gaps = {after - before for before, after in pairwise(steps)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert series.thinned(other.id, 2)["train_loss"][-1].value == pytest.approx(1 / 5)


def test_a_value_that_is_no_number_is_kept_as_such(database: Database) -> None:
    series = Series(database)
    with database.writing() as session:
        experiment = an_experiment()
        session.add(experiment)
        session.flush()
        series.write(session, experiment.id, [{"step": 1, "tokens": 1, "seconds": 1.0, "train_loss": math.nan}])
    assert math.isnan(series.read(experiment.id)["train_loss"][0].value)
    assert math.isnan(series.latest([experiment.id])[experiment.id]["train_loss"])
