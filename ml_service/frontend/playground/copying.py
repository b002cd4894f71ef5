"""Copying a request of the playground, as a command or as a script."""

from __future__ import annotations

import json
from collections.abc import Callable

from nicegui import ui

from ml_service.frontend.parts import button, dialog, text
from ml_service.frontend.playground.snippets import Wish, curl, python

_COPIED_WITHIN_S = 3.0


class CopyButtons:
    """Place it with `with`; `wish` is asked when one is pressed, and gives None where the form is wrong."""

    def __init__(self, wish: Callable[[], Wish | None]) -> None:
        self._wish = wish
        with ui.element("div").classes("line copying"):
            button("Copy as curl", lambda: self._copy("curl command", curl), icon="terminal")
            button("Copy as Python", lambda: self._copy("Python script", python), icon="code")

    async def _copy(self, what: str, write: Callable[[Wish], str]) -> None:
        wish = self._wish()
        if wish is None:
            return
        written = write(wish)
        try:
            is_copied = await ui.run_javascript(
                f"return mlPage.copy({json.dumps(written)}).then(() => true, () => false)", timeout=_COPIED_WITHIN_S
            )
        except TimeoutError:
            is_copied = False
        if is_copied:
            where = f" It reads the picture from the file {wish.picture}." if wish.picture else ""
            ui.notify(f"The {what} is copied.{where}", type="positive")
        else:
            _show(what, written)


def _show(what: str, written: str) -> None:
    """A browser lets a page copy only at a press of a button that is its own."""
    with dialog(f"The {what}") as box:
        text("pre", written, "snippet").props('tabindex="0" role="group" aria-label="What to copy"')
        with ui.element("div").classes("dialog-actions"):
            button("Close", box.close)
            press = button("Copy", icon="content_copy", kind="primary").props("autofocus")
            press.on("click", js_handler=f"() => mlPage.copy({json.dumps(written)})")
