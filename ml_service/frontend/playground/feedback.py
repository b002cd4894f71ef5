"""What somebody thinks of an answer: good, bad, or what it should have been; asked once."""

from __future__ import annotations

from dataclasses import dataclass

from nicegui import ui

from ml_service.frontend.api import ApiError
from ml_service.frontend.parts import button, dialog, text, tool
from ml_service.frontend.regions import tell_error
from ml_service.frontend.visit import Visit

_LONGEST = 100_000
"""Characters that the service takes of a prompt or a correction."""
_THANKS = {
    "accepted": "Thank you. It is kept as a good answer.",
    "rejected": "Thank you. It is kept as a bad answer.",
    "corrected": "Thank you. Your correction is kept as data for the next training.",
}


@dataclass(frozen=True)
class Judged:
    """An answer that can be judged."""

    request_id: str
    prompt: str
    answer: str
    is_one_of_several: bool = False
    """All have one id: the one that is meant is sent as what should have followed."""


class FeedbackBar:
    """Place it with `with`."""

    def __init__(self, visit: Visit, judged: Judged) -> None:
        self._visit, self._judged = visit, judged
        self._is_sending = False
        with ui.element("div").classes("feedback line").props('role="group" aria-label="Feedback"') as self._place:
            text("span", "Was this good?", "hint")
            tool("thumb_up", "Good answer").on_click(self._accept)
            tool("thumb_down", "Bad answer: say what it should have been").on_click(self._ask)

    async def _accept(self) -> None:
        await self._send(True, self._judged.answer if self._judged.is_one_of_several else None)

    def _ask(self) -> None:
        with dialog("What should it have been?") as box:
            text(
                "p",
                "What you write is learned as what follows the prompt. Send it unchanged to only say that it was bad.",
                "hint",
            )
            editor = ui.textarea("Correction", value=self._judged.answer).props("outlined autogrow autofocus")
            editor.classes("full mono correction")
            with ui.element("div").classes("dialog-actions"):
                button("Cancel", box.close)

                async def send() -> None:
                    correction = str(editor.value or "")
                    if not correction.strip():
                        editor.error = "It is blank: write what should follow, or cancel."
                    elif await self._send(False, correction if correction != self._judged.answer else None):
                        box.close()

                button("Send", send, kind="primary")

    async def _send(self, is_accepted: bool, correction: str | None) -> bool:
        if self._is_sending:
            return False
        self._is_sending = True
        prompt = self._judged.prompt[:_LONGEST]
        body = {"request_id": self._judged.request_id, "accepted": is_accepted, "prompt": prompt}
        if correction is not None:
            body["correction"] = correction
        try:
            kept = await self._visit.api.send("POST", "/feedback", body)
        except ApiError as error:
            tell_error(error, "Not kept")
            return False
        finally:
            self._is_sending = False
        self._place.clear()
        with self._place:
            ui.icon("check").classes("good-ink")
            text("span", _THANKS[kept["verdict"]], "hint").props('role="status"')
        return True
