"""Tables: sorted by a click on a heading, page by page where there are many rows, a cell that opens something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

NUMBER = "number"
"""The field by which rows are told apart: their place in what was given."""


@dataclass(frozen=True)
class Column:
    """A column; `name` is the rows' field."""

    name: str
    label: str
    is_right: bool = False
    classes: str = ""
    sort_by: str = ""
    """Another field, a number, where the shown one is a text made of it."""


class Table:
    """Rows are given as they are shown; `show` changes them in place."""

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        rows: Sequence[Mapping[str, Any]],
        *,
        a_page: int = 15,
        is_tight: bool = False,
    ) -> None:
        self._a_page = a_page
        self._columns = columns
        with scrolled(name):
            self.table = ui.table(
                rows=_numbered(rows), columns=[_column(each) for each in columns], row_key=NUMBER, pagination=a_page
            )
        self.table.props("flat dense" if is_tight else "flat").classes("tight" if is_tight else "")
        self._page_where_many()

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these from now on."""
        self.table.rows = _numbered(rows)
        self._page_where_many()

    def link(self, column: str, address: str, on_open: Callable[[Any], Awaitable[None] | None] | None = None) -> None:
        """The cells of a column lead to `address` with their value behind it; or open it here."""
        here = """@click.prevent="() => $parent.$emit('open', props.value)\"""" if on_open is not None else ""
        cell = f"""<q-td :props="props"><a v-if="props.value" class="linked" :href="'{address}' + props.value" {here}>
            {{{{ props.value }}}}</a></q-td>"""
        self.table.add_slot(f"body-cell-{column}", cell)
        if on_open is not None:
            self.table.on("open", lambda event: _opened(on_open, event))

    def slot(self, column: str, cell: str) -> None:
        """The cells of a column look so."""
        self.table.add_slot(f"body-cell-{column}", f'<q-td :props="props">{cell}</q-td>')

    def _page_where_many(self) -> None:
        few = len(self.table.rows) <= self._a_page
        self.table.props(add="hide-pagination" if few else "", remove="" if few else "hide-pagination")


def scrolled(name: str) -> ui.element:
    """What is put in may be wider than the place: it scrolls, with the keys of the keyboard, too."""
    return ui.element("div").classes("scroll").props(f'role="region" tabindex="0" aria-label="{name}"')


async def _opened(on_open: Callable[[Any], Awaitable[None] | None], event: GenericEventArguments) -> None:
    opening = on_open(event.args)
    if opening is not None:
        await opening


def _numbered(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, NUMBER: number} for number, row in enumerate(rows)]


def _column(column: Column) -> dict[str, Any]:
    made = {
        "name": column.name, "label": column.label, "field": column.name, "classes": column.classes, "sortable": True,
        "align": "right" if column.is_right else "left",
    }  # fmt: skip
    if column.sort_by:
        made[":sort"] = f"(a, b, one, other) => (one.{column.sort_by} ?? 0) - (other.{column.sort_by} ?? 0)"
    return made
