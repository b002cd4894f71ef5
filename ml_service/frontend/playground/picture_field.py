"""A picture for the prompt: dropped, pasted or chosen; shown by the browser with what was read drawn on it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nicegui import events, ui

_LARGEST_BYTES = 20_000_000
_ARRIVES_WITHIN_S = 60.0


class PictureField(ui.element, component="picture_field.js"):
    """Takes what is dropped on `place`, or pasted anywhere on the page."""

    def __init__(self, place: ui.element, on_change: Callable[[], object]) -> None:
        super().__init__()
        self.name: str | None = None
        """Of its file; None where there is no picture."""
        self._bytes = b""
        self._has_arrived = asyncio.Event()
        self._on_change = on_change
        with self:
            upload = ui.upload(
                auto_upload=True, max_file_size=_LARGEST_BYTES, on_upload=self._take, on_rejected=self._refuse
            ).classes("hidden-upload")
        self.props["upload"] = upload.id
        self.props["place"] = place.html_id
        self.on("picked", lambda event: self._expect(event.args))
        self.on("removed", lambda _: self._forget())

    async def as_base64(self) -> str:
        """The file, as JSON takes it. Raises TimeoutError where it does not come."""
        async with asyncio.timeout(_ARRIVES_WITHIN_S):
            await self._has_arrived.wait()
        return await asyncio.to_thread(lambda: base64.b64encode(self._bytes).decode())

    def draw(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Show where these were read."""
        self.run_method("draw", lines)

    def take_away(self) -> None:
        """Go on without a picture."""
        self.run_method("clear")
        self._forget()

    def _expect(self, name: str) -> None:
        self.name = name
        self._has_arrived.clear()
        self._on_change()

    async def _take(self, event: events.UploadEventArguments) -> None:
        self._bytes = await event.file.read()
        self._has_arrived.set()

    def _refuse(self) -> None:
        ui.notify(f"A picture of at most {_LARGEST_BYTES // 10**6} MB can be sent.", type="negative")
        self.take_away()

    def _forget(self) -> None:
        self.name, self._bytes = None, b""
        self._has_arrived.clear()
        self._on_change()
