"""An answer's text in the browser, token by token: tinted by probability, with the alternatives of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nicegui import ui


class TokenText(ui.element, component="token_text.js"):
    """Takes pieces as they come; each is `[text, probability or None, [[text, probability], …]]`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.props["name"] = name

    def add(self, pieces: Sequence[Sequence[Any]]) -> None:
        """Put these behind what is there."""
        self.run_method("add", pieces)

    def begin(self) -> None:
        """Show nothing, and that something will come."""
        self.run_method("begin")

    def end(self) -> None:
        """Nothing more will come."""
        self.run_method("end")
