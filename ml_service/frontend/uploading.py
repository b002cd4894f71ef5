"""Files, or a text, that stay in the browser until they are sent; then they go straight through to the service."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from ml_service.frontend.api import ApiError, refusal
from ml_service.frontend.parts import notice

HEAD_BYTES = 64 << 10
"""So much of the first file comes to the page, to be looked at before it is sent."""


@dataclass(frozen=True)
class Picked:
    """What would be sent now."""

    names: Sequence[str] = ()
    """Of files; none where it is a text."""
    size_bytes: int = 0
    is_text: bool = False
    head: bytes = b""
    """The first file begins so."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        return not self.size_bytes and not self.names

    @property
    def has_more(self) -> bool:
        """Whether the first file goes on behind its head."""
        return len(self.head) == HEAD_BYTES


class Uploader(ui.element, component="uploading.js"):
    """Drop, choose or paste; then `send`.

    `on_answer` gets what the service answers; its refusal is ApiError, and None where the user ended it. While
    something is sent, progress is shown by the browser itself and costs nobody else anything.
    """

    def __init__(
        self,
        to: str,
        field: str,
        kinds: Sequence[str],
        *,
        multiple: bool,
        work: str,
        on_pick: Callable[[Picked], object],
        on_answer: Callable[[Any], Awaitable[None] | None],
    ) -> None:
        """`to` is `add_data` or `evaluate`, `field` the form's; `work` is what the service does once it has all."""
        super().__init__()
        self._props.update(
            {"to": to, "field": field, "kinds": list(kinds), "multiple": multiple, "work": work, "head": HEAD_BYTES}
        )
        self.picked = Picked()

        def pick(event: GenericEventArguments) -> None:
            told = event.args
            self.picked = Picked(
                told["names"], int(told["bytes"]), bool(told["is_text"]), base64.b64decode(told["head"])
            )
            on_pick(self.picked)

        async def answer(event: GenericEventArguments) -> None:
            done = on_answer(_answered(event.args))
            if done is not None:
                await done

        self.on("picked", pick)
        self.on("answered", answer)

    def send(self, fields: Mapping[str, Any], prefer: str = "") -> None:
        """Send it with these fields beside it; what is no text is sent as JSON."""
        self.run_method("send", dict(fields), prefer)

    def fill(self, text: str) -> None:
        """Put a text in, as if it were pasted; each line is one of its own."""
        self.run_method("fill", text)

    def empty(self) -> None:
        """Take everything out again."""
        self.run_method("clear")


def tell_refusal(error: ApiError) -> None:
    """Why it was not taken, where it would have been shown; what is wrong with a file, too, where that is known."""
    details = [f"{name}: {wrong}" for name, wrong in error.fields.items() if wrong not in str(error)]
    notice("\n".join([str(error), *details]), "bad")


def _answered(told: Mapping[str, Any] | None) -> Any:
    if told is None:
        return None
    status, body = int(told["status"]), str(told["body"])
    return json.loads(body) if 200 <= status < 300 else refusal(status, body)
