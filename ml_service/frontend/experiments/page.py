"""Experiments: all trainings in a table that is filtered, sorted and compared; new ones begin here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from ml_service.frontend.experiments.dialog import ask_training
from ml_service.frontend.experiments.facts import FINISHED, STATES, marks_of
from ml_service.frontend.experiments.table import COLUMNS, Column, Rows
from ml_service.frontend.feeds import Snapshot
from ml_service.frontend.parts import attribute, button, page_title, text
from ml_service.frontend.regions import Region, empty
from ml_service.frontend.visit import Visit

PAGE_ROWS = 25
_MOST_COMPARED = 20
_EVERY_S, _WHILE_TRAINING_S = 10.0, 2.0
_DEPLOYMENTS_EVERY_S = 5.0
_DEFAULTS = {"name": "", "state": "", "sort": "id", "order": "desc", "page": "1"}


async def build(visit: Visit) -> None:
    """The page; with `train` in its address, the wish for a training on that version of the data."""
    ExperimentsPage(visit)
    if (version := visit.query.get("train", "")).isdecimal():
        await ask_training(visit, dataset_version=int(version))


class ExperimentsPage:
    """What is looked for stands in the address, so that it can be kept and sent."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._wanted = _DEFAULTS | {name: visit.query[name] for name in _DEFAULTS if name in visit.query}
        self._rows: Rows | None = None
        self._heads: list[ui.element] = []
        self._marks: Mapping[int, str] = {}
        with page_title("Experiments", "Every training, what it learned from and what came of it."):
            button("New training", lambda: ask_training(visit), icon="add", kind="primary")
        self._build_filters()
        self._region = Region(visit, self._path, self._build_table, self._update, every_s=_pace, height="24rem")
        self._follow_deployments()

    @property
    def _page(self) -> int:
        return max(int(self._wanted["page"]), 1) if self._wanted["page"].isdecimal() else 1

    @property
    def _path(self) -> str:
        query = {name: self._wanted[name] for name in ("name", "state", "sort", "order") if self._wanted[name]}
        return "/experiments?" + urlencode(query | {"limit": PAGE_ROWS, "offset": (self._page - 1) * PAGE_ROWS})

    def _build_filters(self) -> None:
        with ui.element("div").classes("filters"):
            name = ui.input("Name", value=self._wanted["name"])
            name.on_value_change(lambda event: self._want(name=event.value or ""))
            name.props('outlined dense clearable debounce=300 type="search"').classes("filter-name")
            states = {"": "All states"} | {state: state.capitalize() for state in STATES}
            state = self._wanted["state"] if self._wanted["state"] in states else ""
            ui.select(
                states, label="State", value=state, on_change=lambda event: self._want(state=event.value or "")
            ).props("outlined dense options-dense").classes("filter-state")
            self._compare = text("a", "Compare", "link-button compare-link").props('aria-disabled="true"')
            self._clear = button("Clear selection", self._clear_selection)
            self._tell_selection(())

    def _build_table(self, data: Mapping[str, Any]) -> None:
        with ui.element("div").classes("card table-card"):
            with ui.element("div").classes("scroll"), ui.element("table").classes("table experiments"):
                with ui.element("thead"), ui.element("tr"):
                    with ui.element("th").classes("narrow"):
                        text("span", "Select", "unseen")
                    self._heads = [self._build_head(column) for column in COLUMNS]
                    with ui.element("th").classes("narrow"):
                        text("span", "Actions", "unseen")
                self._rows = Rows(self._visit, self._tell_selection)
            with ui.element("div") as self._nothing:
                pass
            with ui.element("div").classes("line pages"):
                self._shown = text("span", "", "hint").props('role="status"')
                self._before = button("Previous", lambda: self._turn(-1), icon="chevron_left")
                self._behind = button("Next", lambda: self._turn(1), icon="chevron_right")
        self._rows.mark(self._marks)
        self._tell_order()
        self._update(data)

    def _build_head(self, column: Column) -> ui.element:
        with ui.element("th").classes(column.classes) as head:
            if column.sort:
                name = text("button", column.title, "sort").props('type="button"')
                name.on("click", lambda: self._sort(column))
            else:
                name = text("span", column.title)
            if column.hint:
                attribute(name, "title", column.hint)
        return head

    def _update(self, data: Mapping[str, Any]) -> None:
        assert self._rows is not None, "rows are made before they are changed"
        found, total = data["experiments"], data["total"]
        self._rows.show(found)
        first = (self._page - 1) * PAGE_ROWS
        self._shown.set_text(f"{first + 1} to {first + len(found)} of {total:,}" if found else "None")
        self._before.set_enabled(self._page > 1)
        self._behind.set_enabled(first + len(found) < total)
        self._tell_nothing(not found)

    def _tell_order(self) -> None:
        for column, head in zip(COLUMNS, self._heads, strict=False):  # none before the service has answered
            is_sorted = bool(column.sort) and column.sort == self._wanted["sort"]
            order = {"asc": "ascending", "desc": "descending"}.get(self._wanted["order"], "none")
            attribute(head, "aria-sort", order if is_sorted else "none")

    def _tell_nothing(self, is_empty: bool) -> None:
        self._nothing.clear()
        if not is_empty:
            return
        with self._nothing:
            if self._wanted["name"] or self._wanted["state"] or self._page > 1:
                with empty("Nothing matches", "No experiment has this name and this state.", "search_off"):
                    button("Show all", self._show_all)
            else:
                with empty("No experiment yet", "Add text on the Data page, then train a model on it.", "science"):
                    button("Go to Data", lambda: ui.navigate.to("/data"))

    def _show_all(self) -> None:
        ui.navigate.to("/experiments")

    def _sort(self, column: Column) -> None:
        order = column.first
        if self._wanted["sort"] == column.sort:
            order = "asc" if self._wanted["order"] == "desc" else "desc"
        self._want(sort=column.sort, order=order)

    def _turn(self, pages: int) -> None:
        self._want(page=str(self._page + pages))

    def _want(self, **wanted: str) -> None:
        self._wanted |= {"page": "1"} | wanted
        query = {name: value for name, value in self._wanted.items() if value != _DEFAULTS[name]}
        ui.navigate.history.replace("/ui/experiments" + (f"?{urlencode(query)}" if query else ""))
        self._tell_order()
        self._region.follow(self._path, _pace)

    def _tell_selection(self, selected: Sequence[int]) -> None:
        can_compare = 2 <= len(selected) <= _MOST_COMPARED
        self._compare.set_text(f"Compare {len(selected)}" if selected else "Compare")
        address = "/ui/experiments/compare?ids=" + ",".join(map(str, selected))
        hint = None if can_compare else f"Select 2 to {_MOST_COMPARED} experiments in the table."
        attribute(self._compare, "href", address if can_compare else None)
        attribute(self._compare, "aria-disabled", str(not can_compare).lower())
        attribute(self._compare, "title", hint)
        self._clear.set_visibility(bool(selected))

    def _clear_selection(self) -> None:
        if self._rows is not None:
            self._rows.clear_selection()

    def _follow_deployments(self) -> None:
        def tell(snapshot: Snapshot) -> None:
            self._marks = marks_of(snapshot.data)
            if self._rows is not None:
                self._rows.mark(self._marks)

        self._visit.follow("/deployments", _DEPLOYMENTS_EVERY_S, tell)


def _pace(data: Mapping[str, Any]) -> float:
    """More often while something trains."""
    return _EVERY_S if all(each["state"] in FINISHED for each in data["experiments"]) else _WHILE_TRAINING_S
