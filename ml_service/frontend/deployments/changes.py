"""What is changed with one click and a question: roll back, end what is tried, let it answer all."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from ml_service.frontend.api import ApiError
from ml_service.frontend.deployments.words import Row, consequences, done, name_of
from ml_service.frontend.parts import button, dialog, text
from ml_service.frontend.regions import tell_error
from ml_service.frontend.visit import Visit

LONGEST_S = 600.0
"""A large model takes its time to be opened and to prove itself."""
_LONGEST_REASON = 120


class Changes:
    """One at a time for each page."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self.data: Row = {}
        """What `GET /deployments` said last."""
        self._is_busy = False

    def roll_back(self, clicked: ui.button) -> None:
        """To what answered before."""
        data = self.data
        active, previous = data["active"], data["previous"]
        told = [
            f"{name_of(previous)}, generation {previous['generation']}, answers again in place of {name_of(active)}."
        ]
        told += [f"The {each}, {name_of(data[each])}, ends." for each in ("shadow", "canary") if data[each]]
        told.append(
            "Requests that run end on the model that they began on. Where its files are gone, it goes further back."
        )
        key = secrets.token_hex(16)

        async def change(reason: str) -> Any:
            return await self._visit.api.send(
                "POST", "/rollback", {"reason": reason}, headers={"Idempotency-Key": key}, timeout_s=LONGEST_S
            )

        self._ask("Roll back?", told, "Roll back", clicked, change, done)

    def end(self, role: str, row: Row, clicked: ui.button) -> None:
        """Take the shadow or the canary away."""

        async def change(reason: str) -> Any:
            return await self._visit.api.send("DELETE", f"/deploy/{role}", query={"reason": reason})

        told = [f"{name_of(row)} is asked nothing any more; what was learned of it stays in the history."]
        self._ask(f"End the {role}?", told, f"End the {role}", clicked, change, lambda _: f"The {role} has ended.")

    def promote(self, row: Row, clicked: ui.button) -> None:
        """Let what is tried answer everybody."""
        key = secrets.token_hex(16)

        async def change(reason: str) -> Any:
            return await send_deploy(self._visit, row["experiment_id"], {"strategy": "replace", "reason": reason}, key)

        told = consequences("replace", name_of(row), self.data, 0)
        self._ask("Let it answer all?", told, "Let it answer all", clicked, change, done)

    def _ask(
        self,
        title: str,
        sentences: list[str],
        action: str,
        clicked: ui.button,
        change: Callable[[str], Awaitable[Any]],
        said: Callable[[Row], str],
    ) -> None:
        with dialog(title) as box:
            for sentence in sentences:
                text("p", sentence)
            reason = ui.input("Why (optional, for the history)").props(f'outlined dense maxlength="{_LONGEST_REASON}"')
            reason.classes("full")

            async def yes() -> None:
                box.close()
                await self._do(title.rstrip("?"), clicked, lambda: change(reason.value.strip()), said)

            with ui.element("div").classes("dialog-actions"):
                button("Cancel", box.close).props("autofocus")
                button(action, yes, kind="primary")

    async def _do(
        self, what: str, clicked: ui.button, change: Callable[[], Awaitable[Any]], said: Callable[[Row], str]
    ) -> None:
        if self._is_busy:
            return
        self._is_busy = True
        clicked.props("loading")
        try:
            outcome = await change()
        except ApiError as error:
            with self._visit.client:
                tell_error(error, f"{what} failed")
        else:
            with self._visit.client:
                ui.notify(said(outcome), type="positive")
        finally:
            self._is_busy = False
            if not clicked.is_deleted:
                clicked.props(remove="loading")
            tell_all(self._visit)


async def send_deploy(visit: Visit, experiment_id: int, body: dict[str, Any], key: str) -> Any:
    """The same key deploys once, however often it is sent. Raises ApiError."""
    headers = {"Idempotency-Key": key}
    return await visit.api.send("POST", f"/deploy/{experiment_id}", body, headers=headers, timeout_s=LONGEST_S)


def tell_all(visit: Visit) -> None:
    """What answers may be another now."""
    for prefix in ("/deployments", "/metadata", "/experiments"):
        visit.refresh(prefix)
