"""The text that was read in a picture, to copy or to go on with."""

from __future__ import annotations

import json
from collections.abc import Callable

from nicegui import ui

from ml_service.frontend.parts import button, text


class ReadText:
    """Place it with `with`; there is nothing to see until something was read."""

    def __init__(self, use: Callable[[str], object]) -> None:
        self._use = use
        self._place = ui.element("div").classes("read-text")
        self._place.set_visibility(False)

    def show(self, read: str | None) -> None:
        """Show this; None is nothing."""
        self._place.clear()
        self._place.set_visibility(read is not None)
        if read is None:
            return
        with self._place:
            with ui.element("div").classes("card-head"):
                text("h3", "What was read")
                with ui.element("div").classes("line"):
                    copy = button("Copy", icon="content_copy")
                    copy.on("click", js_handler=f"() => mlPage.copy({json.dumps(read)})")
                    button("Edit as the prompt", lambda: self._use(read), icon="edit")
            shown = text("pre", read or "Nothing.", "snippet")
            shown.props('tabindex="0" role="group" aria-label="What was read"')  # so that keys can scroll it
