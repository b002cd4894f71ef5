"""What was judged before: newest first, each leads to what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_service.frontend import words
from ml_service.frontend.judging.metrics import main_metric
from ml_service.frontend.judging.result import OPEN, STATES, progress_words
from ml_service.frontend.parts import card
from ml_service.frontend.regions import Region, empty
from ml_service.frontend.tables import Column, Table
from ml_service.frontend.visit import Visit

_PATH = "/evaluations?limit=100"
_OPEN_EVERY_S, _EVERY_S = 2.0, 10.0
_COLUMNS = (
    Column("id", "Evaluation", sort_by="id"),
    Column("data", "Data", classes="wordy"),
    Column("experiment_id", "Experiment", sort_by="experiment_id"),
    Column("state", "State"),
    Column("found", "Found", classes="wordy"),
    Column("created", "When (UTC)"),
    Column("actor", "By"),
)
_STATE = """<span :class="'badge ' + props.row.kind">{{ props.value }}</span>"""


class History:
    """All evaluations, in a card."""

    def __init__(self, visit: Visit) -> None:
        self._table: Table | None = None
        with card("Judged before"):
            Region(visit, _PATH, self._build, self._update, every_s=_pace, height="10rem")

    def _build(self, told: Mapping[str, Any]) -> None:
        if not told["evaluations"]:
            self._nothing = empty("Nothing was judged yet", "What you judge is kept here, for everybody.", "fact_check")
            return
        self._table = Table("Evaluations", _COLUMNS, history_rows(told), is_tight=True)
        self._table.link("id", "/ui/evaluate?id=")
        self._table.link("experiment_id", "/ui/experiments/")
        self._table.slot("state", _STATE)

    def _update(self, told: Mapping[str, Any]) -> None:
        if self._table is not None:
            self._table.show(history_rows(told))
        else:
            self._nothing.delete()
            self._build(told)


def history_rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As the table shows what `GET /evaluations` tells."""
    return [
        {
            "id": each["id"], "data": each["data"], "experiment_id": each["experiment_id"], "actor": each["actor"],
            "state": each["state"], "kind": STATES.get(each["state"], ""), "created": words.clock(each["created"])[:16],
            "found": _found(each),
        }
        for each in told["evaluations"]
    ]  # fmt: skip


def _found(told: Mapping[str, Any]) -> str:
    if told["state"] in OPEN:
        return progress_words(told)[1]
    return told["error"] or main_metric(told["metrics"])


def _pace(told: Mapping[str, Any]) -> float:
    return _OPEN_EVERY_S if any(each["state"] in OPEN for each in told["evaluations"]) else _EVERY_S
