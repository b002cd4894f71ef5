"""What can be done with an experiment: stop it, keep its files, have what is known of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend.api import ApiError
from ml_service.frontend.parts import ask
from ml_service.frontend.regions import tell_error
from ml_service.frontend.visit import Visit


def ask_cancel(visit: Visit, summary: Mapping[str, Any]) -> None:
    """Stop it, once that is confirmed."""
    number, name = summary["experiment_id"], summary["name"]
    is_running = summary["state"] == "running"
    follows = "It ends with what it has learned by now, exported and scored." if is_running else "It will not begin."

    async def cancel() -> None:
        try:
            answer = await visit.api.send("POST", f"/experiments/{number}/cancel")
        except ApiError as error:
            tell_error(error, f"{name} was not cancelled")
        else:
            ui.notify(f"{name} is {'cancelled' if answer['state'] == 'cancelled' else 'ending'}.", type="positive")
        refresh(visit, number)

    ask(f"Cancel {name}?", follows, "Cancel the training", cancel, is_grave=True)


async def pin(visit: Visit, number: int, is_pinned: bool) -> None:
    """Keep its files whatever retention says, or let them go."""
    try:
        await visit.api.send("POST", f"/experiments/{number}/pin", {"pinned": is_pinned})
    except ApiError as error:
        tell_error(error)
        return
    refresh(visit, number)
    ui.notify("Its files are kept." if is_pinned else "Retention may remove its files again.", type="positive")


async def download_metadata(visit: Visit, number: int) -> None:
    """What its graph file says of itself, as JSON."""
    try:
        metadata = await visit.api.get(f"/metadata/{number}")
    except ApiError as error:
        tell_error(error)
        return
    ui.download.content(json.dumps(metadata, indent=2, ensure_ascii=False), f"experiment-{number}.json")


def refresh(visit: Visit, number: int) -> None:
    """Whatever shows it asks again."""
    visit.refresh("/experiments")
    visit.refresh(f"/metrics/{number}")
