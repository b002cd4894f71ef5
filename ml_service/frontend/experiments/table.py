"""The table of experiments: a row for each, changed in place while they go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.experiments.actions import ask_cancel, pin
from ml_service.frontend.experiments.facts import (
    FINISHED,
    NEW,
    STATES,
    Scored,
    data_words,
    known_score,
    network_words,
    progress_words,
    scores_of,
    share_of,
)
from ml_service.frontend.parts import attribute, badge, text
from ml_service.frontend.visit import Visit


@dataclass(frozen=True)
class Column:
    """A column, by what it is sorted, and which way first."""

    title: str
    sort: str = ""
    first: str = "desc"
    hint: str = ""
    classes: str = ""


COLUMNS = (
    Column("Experiment", "name", "asc"),
    Column("State", "state", "asc"),
    Column("Data", "data", "desc", "The version of the data set, and other text that it learned from.", "wide-only"),
    Column("Size", "parameters", "desc", "The shape of its network, and its parameters.", "wide-only"),
    Column("New text", "bits_per_byte", "asc", "Bits per byte of held-out new text; lower is better.", "number"),
    Column("Known text", hint="The same of what the model knew before: the mean over its sources.", classes="number"),
    Column("Age", "created", classes="number"),
)
_OPEN = "(event) => {{ if (!event.target.closest('a, button, label, .q-checkbox')) location.href = '{}' }}"


class Row:
    """One experiment."""

    def __init__(
        self, visit: Visit, summary: Mapping[str, Any], is_selected: bool, on_select: Callable[[], None]
    ) -> None:
        self._visit, self._summary = visit, summary
        number, name = summary["experiment_id"], summary["name"]
        with ui.element("tr") as self.place:
            self.place.on("click", js_handler=_OPEN.format(f"/ui/experiments/{number}"))
            with ui.element("td").classes("narrow"):
                box = ui.checkbox(value=is_selected, on_change=on_select).props("dense")
                attribute(box, "aria-label", f"Select {name} to compare")
                self.selected = box
            with ui.element("td").classes("name-cell"):
                link = text("a", name, "name")
                attribute(link, "href", f"/ui/experiments/{number}")
                attribute(link, "title", name)
                with ui.element("div").classes("hint line tight"):
                    text("span", f"#{number} {summary['kind']}")
                    self._mark = badge("", "good")
            with ui.element("td").classes("state-cell"):
                self._state = badge("")
                self._progress = text("span", "", "hint")
                self._bar = Bar(f"Progress of {name}")
            self._data = text("td", "", "wide-only")
            self._size = text("td", "", "wide-only")
            self._new, self._known = ScoreCell(), ScoreCell()
            self._age = text("td", "", "number age")
            with ui.element("td").classes("narrow row-tools"):
                self._cancel = _tool("stop_circle", f"Cancel {name}", lambda: ask_cancel(visit, self._summary))
                self._pin = _tool("push_pin", "", lambda: pin(visit, number, not self._summary["pinned"]))
        self.show(summary)

    def show(self, summary: Mapping[str, Any]) -> None:
        """As it stands now."""
        self._summary, state, name = summary, summary["state"], summary["name"]
        self._state.set_text(state)
        self._state.classes(replace=f"badge {STATES.get(state, '')}")
        told = progress_words(summary) or summary["error"] or ""
        self._progress.set_text(told)
        attribute(self._progress, "title", told or None)
        self._bar.show(share_of(summary))
        self._data.set_text(data_words(summary))
        self._size.set_text(network_words(summary))
        scores = scores_of(summary["metrics"])
        self._new.show(scores.get(NEW, Scored(None)))
        self._known.show(known_score(scores), {source: each for source, each in scores.items() if source != NEW})
        self._cancel.set_visibility(state not in FINISHED)
        is_pinned = summary["pinned"]
        label = f"Let retention remove the files of {name}" if is_pinned else f"Keep the files of {name}"
        attribute(self._pin, "aria-label", label)
        attribute(self._pin, "title", label)
        attribute(self._pin, "aria-pressed", str(is_pinned).lower())
        self.age()

    def mark(self, role: str) -> None:
        """Whether it answers: active, shadow, canary or nothing."""
        self._mark.set_text(role)
        self._mark.set_visibility(bool(role))

    def age(self) -> None:
        """Time has gone by."""
        self._age.set_text(words.ago(self._summary["created"]).removesuffix(" ago"))
        attribute(self._age, "title", words.clock(self._summary["created"]))


class Bar:
    """How far something is."""

    def __init__(self, name: str, *, keeps_place: bool = False) -> None:
        self._hidden = "bar-away" if keeps_place else "hidden"
        with ui.element("div").classes("bar") as self.place:
            self._done = ui.element("div").classes("bar-done")
        self.place.props('role="progressbar" aria-valuemin=0 aria-valuemax=100')
        attribute(self.place, "aria-label", name)
        self.place.classes(add=self._hidden)

    def show(self, share: float | None) -> None:
        """From 0 to 1; None hides it."""
        self.place.classes(**{"add" if share is None else "remove": self._hidden})
        if share is not None:
            attribute(self.place, "aria-valuenow", round(share * 100))
            self._done.style(f"width: {share:.1%}")


class ScoreCell:
    """A score, and how it differs from that of the model before."""

    def __init__(self) -> None:
        with ui.element("td").classes("number score") as self.place:
            self._value = text("span", "")
            self._change = text("span", "", "change")

    def show(self, score: Scored, parts: Mapping[str, Scored] | None = None) -> None:
        """`parts` is what a mean is of."""
        self._value.set_text(score.words)
        self._change.set_text(score.change.replace("-", "\N{MINUS SIGN}"))
        self._change.classes(replace=f"change {score.kind}")
        self._value.classes(replace="foreign" if score.is_foreign else "")
        lines = [f"{source}: {each.account}" for source, each in (parts or {}).items()]
        attribute(self.place, "title", "\n".join(lines) or score.account)


class Rows:
    """The rows of the table, in the order of the service; which are selected is remembered over pages."""

    def __init__(self, visit: Visit, on_select: Callable[[Sequence[int]], None]) -> None:
        self._visit, self._on_select = visit, on_select
        self._rows: dict[int, Row] = {}
        self._marks: Mapping[int, str] = {}
        self.selected: list[int] = []
        self.place = ui.element("tbody")
        ui.timer(60.0, self._grow_older)

    def show(self, summaries: Sequence[Mapping[str, Any]]) -> None:
        """These, in this order; rows that stay keep their focus."""
        wanted = {each["experiment_id"]: each for each in summaries}
        for number in [number for number in self._rows if number not in wanted]:
            self._rows.pop(number).place.delete()
        for place, (number, summary) in enumerate(wanted.items()):
            row = self._rows.get(number)
            if row is None:
                with self.place:
                    row = self._rows[number] = Row(
                        self._visit, summary, number in self.selected, partial(self._select, number)
                    )
                row.mark(self._marks.get(number, ""))
            else:
                row.show(summary)
            if self.place.default_slot.children.index(row.place) != place:
                row.place.move(target_index=place)

    def mark(self, marks: Mapping[int, str]) -> None:
        """Who answers."""
        self._marks = marks
        for number, row in self._rows.items():
            row.mark(marks.get(number, ""))

    def clear_selection(self) -> None:
        """Select none."""
        for row in self._rows.values():
            row.selected.set_value(False)
        self.selected = []
        self._on_select(())

    def _select(self, number: int) -> None:
        is_selected = self._rows[number].selected.value
        self.selected = [each for each in self.selected if each != number] + ([number] if is_selected else [])
        self._on_select(self.selected)

    def _grow_older(self) -> None:
        if self._visit.is_visible:
            for row in self._rows.values():
                row.age()


def _tool(icon: str, label: str, on_click: Callable[[], object]) -> ui.button:
    made = ui.button(icon=icon, on_click=on_click).props("flat round dense size=sm").classes("tool")
    attribute(made, "aria-label", label)
    attribute(made, "title", label)
    return made
