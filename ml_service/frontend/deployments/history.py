"""How it came about: which experiment answered when, as a strip, and every deployment in a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.api import ApiError
from ml_service.frontend.charts import SERIES_COLOURS
from ml_service.frontend.deployments.figures import Span, spans_of
from ml_service.frontend.deployments.words import Row, how, lasted, outcome
from ml_service.frontend.parts import attribute, button, card, text
from ml_service.frontend.regions import empty, tell_error
from ml_service.frontend.visit import Visit

PAGE = 50
"""So many lines the route gives where it is not asked for more."""
_MOST = 1000
_LANES = ("answered", "canary", "shadow")
_TIMES = {"hour": 3600.0, "day": 86_400.0, "week": 604_800.0, "all": 0.0}
_STRIP_EVERY_S = 60.0
_COLUMNS = (
    ("when", "When (UTC)", "left"),
    ("experiment", "Experiment", "left"),
    ("how", "How", "left"),
    ("outcome", "Outcome", "left"),
    ("lasted", "For", "right"),
    ("by", "By", "left"),
    ("why", "Why", "left"),
)


class History:
    """The strip and the table, which change in place."""

    def __init__(self, visit: Visit, data: Row) -> None:
        self._visit = visit
        self._older: list[Row] = []
        self._rows: list[Row] = []
        with card("Who answered when") as self._card:
            self._strip = Strip()
        with card("History"):
            with ui.element("div").classes("scroll"):
                self._table = _table()
            self._more = button("Show the earlier ones", self._show_all, icon="expand_more")
        self.show(data)

    def show(self, data: Row) -> None:
        """What is told now, and before it what was asked for."""
        known = {row["id"] for row in data["history"]}
        self._rows = [*data["history"], *(row for row in self._older if row["id"] not in known)]
        self._strip.show(self._rows)
        self._more.set_visibility(len(data["history"]) == PAGE and not self._older)
        now = datetime.now(UTC)
        told = [told_of(row, self._rows, now) for row in self._rows]
        if told != self._table.rows:
            self._table.rows = told

    async def _show_all(self) -> None:
        try:
            self._older = (await self._visit.api.get("/deployments", limit=_MOST))["history"]
        except ApiError as error:
            tell_error(error)
            return
        self._visit.refresh("/deployments")
        self.show({"history": self._older[:PAGE]})


def told_of(row: Row, history: Sequence[Row], now: datetime) -> dict[str, Any]:
    """A line of the table."""
    became = outcome(row, history)
    return {
        "id": row["id"], "when": words.clock(row["created"]).removesuffix(" UTC"), "how": how(row),
        "generation": "" if row["generation"] is None else f"generation {row['generation']}",
        "experiment": row["experiment"], "experiment_id": row["experiment_id"], "outcome": became.word,
        "kind": became.kind, "sentence": became.sentence, "lasted": lasted(row, now), "by": row["actor"],
        "why": row["reason"] or words.NOTHING,
    }  # fmt: skip


def _table() -> ui.table:
    columns = [{"name": name, "label": label, "field": name, "align": align} for name, label, align in _COLUMNS]
    table = ui.table(columns=columns, rows=[], row_key="id", pagination=0).props("flat dense hide-bottom")
    table.classes("history full")
    table.add_slot("body-cell-experiment", _EXPERIMENT)
    table.add_slot("body-cell-outcome", _OUTCOME)
    table.add_slot("body-cell-how", '<q-td :props="props"><span :class="props.row.kind == \'bad\' || '
                   "props.value.startsWith('automatic') ? 'marked' : ''\">{{ props.value }}</span></q-td>")  # fmt: skip
    return table


class Strip:
    """Spans of time side by side, a lane for what answered and one for each way to try."""

    def __init__(self) -> None:
        self._rows: Sequence[Row] = ()
        self._shown: list[tuple[Any, ...]] = []
        self._drawn_at = 0.0
        with ui.element("div").classes("line"):
            options = {name: f"Last {name}" if limit else "All" for name, limit in _TIMES.items()}
            self._time = (
                ui.toggle(options, value="all", on_change=self._draw).props("no-caps dense flat").classes("times")
            )
        self._place = ui.element("div").classes("strip")

    def show(self, rows: Sequence[Row]) -> None:
        """Drawn anew where something has changed, and now and then, for time goes on."""
        now = datetime.now(UTC)
        found = [(row["id"], row["state"], row["retired"]) for row in rows]
        if found == self._shown and now.timestamp() - self._drawn_at < _STRIP_EVERY_S:
            return
        self._rows, self._shown = rows, found
        self._draw()

    def _draw(self) -> None:
        now = datetime.now(UTC)
        self._drawn_at = now.timestamp()
        spans = spans_of(self._rows, now)
        limit = _TIMES[self._time.value]
        start = now - timedelta(seconds=limit) if limit else min((span.start for span in spans), default=now)
        colours = {each: number % SERIES_COLOURS + 1 for number, each in enumerate(dict.fromkeys(
            span.row["experiment_id"] for span in spans))}  # fmt: skip
        self._place.clear()
        with self._place:
            if not spans:
                empty("Nothing has answered yet", "The first deployment begins the strip.", "timeline")
                return
            for lane in _LANES:
                self._draw_lane(
                    lane, [span for span in spans if span.lane == lane and span.end > start], colours, start, now
                )
            with ui.element("div").classes("strip-ends"):
                text("span", words.clock(start.isoformat()))
                text("span", "now")

    def _draw_lane(
        self, lane: str, spans: Sequence[Span], colours: dict[int, int], start: datetime, now: datetime
    ) -> None:
        if not spans:
            return
        text("div", lane, "lane-name")
        with ui.element("div").classes("lane").props(f'role="list" aria-label="{lane}"'):
            for span in spans:
                left, width = place_of(span, start, now)
                own = colours[span.row["experiment_id"]]
                piece = text("span", span.row["experiment"], "span").props('role="listitem"')
                piece.style(f"left: min({left}%, 100% - 4px); width: {width}%; --own: var(--series-{own})")
                attribute(piece, "title", span.told)


def place_of(span: Span, start: datetime, now: datetime) -> tuple[float, float]:
    """Where it begins and how wide it is, in percent of the time from `start` to `now`."""
    whole = max((now - start).total_seconds(), 1.0)
    left = max((span.start - start).total_seconds(), 0.0) / whole
    right = min((span.end - start).total_seconds() / whole, 1.0)
    return round(100 * left, 3), round(100 * max(right - left, 0.0), 3)


_EXPERIMENT = """
<q-td :props="props">
  <a class="linked" :href="'/ui/experiments/' + props.row.experiment_id">{{ props.value }}</a>
  <div class="hint">{{ props.row.generation }}</div>
</q-td>
"""
_OUTCOME = """
<q-td :props="props" class="wordy">
  <span :class="'badge ' + props.row.kind">{{ props.value }}</span>
  <div v-if="props.row.sentence" class="hint">{{ props.row.sentence }}</div>
</q-td>
"""
