"""A place on a page that shows what a route answers: loading, there, empty, wrong, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nicegui import ui

from ml_service.frontend.api import ApiError
from ml_service.frontend.feeds import Pace, Snapshot, Subscriber
from ml_service.frontend.visit import Visit

Show = Callable[[Any], None]


class Region:
    """Follows a route. `build` makes the elements, `update` changes them; without it they are made anew.

    Place it with `with`; what it shows is asked for every `every_s` seconds while the page can be seen. `height` is
    kept free from the start, so that nothing jumps. `missing` makes what stands where there is no such thing (404).
    """

    def __init__(
        self,
        visit: Visit,
        path: str,
        build: Show,
        update: Show | None = None,
        *,
        every_s: Pace = 5.0,
        height: str = "8rem",
        missing: Callable[[], None] | None = None,
    ) -> None:
        self._visit, self._path, self._build, self._update, self._missing = visit, path, build, update, missing
        self._shown: Any = None
        self._first = asyncio.Event()
        self.place = ui.element("section").classes("region").style(f"min-height: {height}")
        with self.place:
            loading()
        visit.wait_for(self._first)
        self.end = self._subscribed(every_s)
        visit.client.on_delete(lambda: self.end())

    def follow(self, path: str, every_s: Pace) -> None:
        """Another route, or as often as this, from now on; what is shown stays until it answers."""
        self.end()
        self._path = path
        self.end = self._subscribed(every_s)

    def _subscribed(self, every_s: Pace) -> Callable[[], None]:
        subscriber = Subscriber(self._tell, lambda: self._visit.is_visible)
        return self._visit.service.feeds.subscribe(self._visit.api, self._path, every_s, subscriber)

    def _tell(self, snapshot: Snapshot) -> None:
        if self.place.is_deleted or self.place.client.is_deleted:
            self.end()
            return
        try:
            if snapshot.data is not None and snapshot.data != self._shown:
                self._show(snapshot.data)
            elif snapshot.data is None and snapshot.error is not None:
                self.place.clear()
                with self.place:
                    self._fail(snapshot.error)
            is_stale = snapshot.error is not None and snapshot.data is not None
            self.place.classes(add="stale" if is_stale else "", remove="" if is_stale else "stale")
        finally:
            self._first.set()

    def _fail(self, error: ApiError) -> None:
        if error.status == 404 and self._missing is not None:
            self._missing()
        else:
            failed(error, lambda: self._visit.refresh(self._path))

    def _show(self, data: Any) -> None:
        is_there, self._shown = self._shown is not None, data
        if is_there and self._update is not None:
            with self.place:
                self._update(data)
            return
        self.place.clear()
        with self.place:
            self._build(data)


def loading(lines: int = 3) -> None:
    """Grey lines where text will be."""
    with ui.element("div").classes("loading").props('role="status" aria-label="Loading"'):
        for number in range(lines):
            ui.element("div").classes("bone").style(f"width: {(92, 74, 83, 61)[number % 4]}%")


def empty(title: str, hint: str, icon: str = "inbox") -> ui.element:
    """Nothing is there, and what to do about it; more can be put in with `with`."""
    with ui.element("div").classes("state") as place:
        ui.icon(icon).classes("state-icon")
        ui.label(title).classes("state-title")
        ui.label(hint).classes("state-hint")
    return place


def failed(error: ApiError, again: Callable[[], object] | None = None) -> None:
    """It could not be had, and why."""
    with ui.element("div").classes("state").props('role="alert"'):
        ui.icon("cloud_off" if error.is_away else "error_outline").classes("state-icon bad")
        title = "The service cannot be reached" if error.is_away else "This could not be loaded"
        ui.label("A key is wanted" if error.wants_key else title).classes("state-title")
        ui.label(error.about_key if error.wants_key else str(error)).classes("state-hint")
        if again is not None and not error.wants_key:
            ui.button("Try again", icon="refresh", on_click=again).props("flat dense no-caps")


def tell_error(error: ApiError, what: str = "") -> None:
    """A message at the edge that stays until it is closed: what was wanted, and why it was refused."""
    text = f"{what}: {error}" if what else str(error)
    ui.notify(text, type="negative", close_button="Close", timeout=0, multi_line=True)
