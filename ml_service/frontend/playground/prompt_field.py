"""The prompt's field: it grows, outlives a reload, and knows the keys that run and stop."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

LONGEST = 200_000
"""Characters; one message of a browser's socket takes a million bytes."""


class PromptField(ui.element, component="prompt_field.js"):
    """`text` is what was typed when something was pressed; the draft is kept by the browser."""

    def __init__(self, on_run: Callable[[], object], on_stop: Callable[[], object]) -> None:
        super().__init__()
        self.text = ""
        self.props["longest"] = LONGEST
        self.on("typed", lambda event: self._take(event.args))
        self.on("run", lambda _: on_run())
        self.on("stop", lambda _: on_stop())

    def put(self, text: str) -> None:
        """Write this in place of what is there, and go there."""
        self.text = text
        self.run_method("put", text)

    def _take(self, text: str) -> None:
        self.text = text
