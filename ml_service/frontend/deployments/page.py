"""Deployments: what answers now, what is tried beside it and how it does, how it came about; deploy and roll back."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from ml_service.frontend.deployments.changes import Changes
from ml_service.frontend.deployments.form import DEFAULT_PERCENT, DeployForm
from ml_service.frontend.deployments.history import History
from ml_service.frontend.deployments.now import Now
from ml_service.frontend.deployments.trials import Trials
from ml_service.frontend.deployments.words import Row, pace
from ml_service.frontend.parts import button, page_title
from ml_service.frontend.regions import Region, empty
from ml_service.frontend.visit import Visit


def build(visit: Visit) -> None:
    """The page; `?deploy=ID` opens the form with that experiment chosen."""
    board = _Board(visit)
    with page_title("Deployments", "What answers, what is tried beside it, and how it came about."):
        board.build_actions()
    Region(visit, "/deployments", board.build, board.update, every_s=pace, height="600px")
    wanted = visit.query.get("deploy", "")
    if wanted.isascii() and wanted.isdigit():
        DeployForm(visit, int(wanted))


class _Board:
    """What the page is made of, changed in place."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._changes = visit, Changes(visit)
        self._is_empty = True
        self._parts: list[Now | Trials | History] = []

    def build_actions(self) -> None:
        """Beside the title, from the start."""
        self._back = button("Roll back", icon="undo")
        self._back.on_click(lambda: self._changes.roll_back(self._back))
        self._back.disable()
        button("Deploy", lambda: DeployForm(self._visit), icon="rocket_launch", kind="primary")

    def build(self, data: dict[str, Any]) -> None:
        """For the first time, or where there is something at last."""
        self._is_empty, self._parts = data["active"] is None, []
        self._tell(data)
        with ui.element("div").classes("stack"):
            if self._is_empty:
                self._build_nothing()
            else:
                self._parts = [Now(self._visit, data), Trials(self._changes, self._change_share, data)]
            if not self._is_empty or data["history"]:
                self._parts.append(History(self._visit, data))

    def update(self, data: dict[str, Any]) -> None:
        """What is told now."""
        if self._is_empty:
            ui.context.slot.parent.clear()
            self.build(data)
            return
        self._tell(data)
        for part in self._parts:
            part.show(data)

    def _tell(self, data: Row) -> None:
        self._changes.data = data
        self._back.set_enabled(data["previous"] is not None)

    def _build_nothing(self) -> None:
        hint = "Deploy an experiment that has a model. Where there is none yet, add data and train one from scratch."
        with empty("No model answers yet", hint, "rocket_launch"), ui.element("div").classes("line"):
            button("Deploy", lambda: DeployForm(self._visit), icon="rocket_launch", kind="primary")
            for name, address in (("Add data", "/ui/data"), ("Experiments", "/ui/experiments")):
                with ui.element("a").props(f'href="{address}"').classes("linked"):
                    ui.label(name)

    def _change_share(self, row: Row) -> None:
        DeployForm(self._visit, row["experiment_id"], "canary", row["percent"] or DEFAULT_PERCENT)
