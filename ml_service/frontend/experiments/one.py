"""One experiment: how far it is and how it learns, live; where it comes from, what it was asked, what it left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.experiments.actions import ask_cancel, download_metadata, pin
from ml_service.frontend.experiments.charts import LearningCurves
from ml_service.frontend.experiments.dialog import ask_training
from ml_service.frontend.experiments.facts import (
    FINISHED,
    STATES,
    figures_of,
    marks_of,
    plan_rows,
    progress_words,
    share_of,
)
from ml_service.frontend.experiments.lineage import draw, graph_of
from ml_service.frontend.experiments.sections import (
    Figures,
    Section,
    build_artifacts,
    build_environment,
    build_evaluations,
    build_plan,
    build_samples,
    build_scores,
)
from ml_service.frontend.experiments.table import Bar
from ml_service.frontend.feeds import Snapshot
from ml_service.frontend.parts import attribute, badge, button, card, text
from ml_service.frontend.regions import Region, empty
from ml_service.frontend.streams import LAST
from ml_service.frontend.visit import Visit

_POINTS = 500
_EVERY_S, _DEPLOYMENTS_EVERY_S, _PARENT_EVERY_S = 60.0, 5.0, 600.0


def build(visit: Visit) -> None:
    """The page."""
    number = visit.path["experiment_id"]
    if number.isdecimal() and 0 < int(number) < 2**63:
        ExperimentPage(visit, int(number))
    else:
        _build_missing(number)


class ExperimentPage:
    """The account is asked for rarely; what changes while it trains comes as events."""

    def __init__(self, visit: Visit, number: int) -> None:
        self._visit, self._number = visit, number
        self._path = f"/metrics/{number}?max_points={_POINTS}"
        self._stop_listening: Callable[[], None] | None = None
        self._differing: Mapping[str, Sequence[Any]] = {}
        self._account: Mapping[str, Any] = {}
        self._heard: tuple[str, int] | None = None
        missing = partial(_build_missing, str(number))
        Region(visit, self._path, self._build, self._update, every_s=_EVERY_S, height="60rem", missing=missing)

    def _build(self, account: Mapping[str, Any]) -> None:
        ui.page_title(f"{account['name']} · ml_service")
        self._account = account
        self._build_head(account)
        with ui.element("div").classes("notice bad").props('role="alert"') as self._error_box:
            ui.icon("error_outline").props('aria-hidden="true"')
            self._error = text("p", "")
        with ui.element("div").classes("stack"):
            with ui.element("div").classes("stack tight") as self._standing:
                self._bar = Bar("Progress of the training", keeps_place=account["state"] not in FINISHED)
                self._figures = Figures()
            self._curves = self._build_curves(account)
            self._sections = self._build_sections()
        self._visit.follow("/deployments", _DEPLOYMENTS_EVERY_S, self._tell_deployments)
        if account["parent_id"] is not None:
            ids = f"{account['parent_id']},{self._number}"
            self._visit.follow(f"/experiments/compare?ids={ids}", _PARENT_EVERY_S, self._tell_parent)
        self._update(account)

    def _build_head(self, account: Mapping[str, Any]) -> None:
        with ui.element("div").classes("page-title"):
            with ui.element("div").classes("title-words"):
                with ui.element("div").classes("line"):
                    text("h1", account["name"])
                    self._state, self._mark = badge(""), badge("", "good")
                    self._mark.set_visibility(False)
                    self._progress = text("span", "", "hint").props('role="status"')
                text("p", _origin(account), "hint")
            self._actions = Section(_possible, self._build_actions, "actions")

    def _build_actions(self, possible: tuple[bool, bool, int | None]) -> None:
        is_model, is_over, parent = possible
        if is_model:
            _link("Ask it", f"/ui/?model={self._number}", "edit_note")
            _link("Deploy", f"/ui/deployments?deploy={self._number}", "rocket_launch")
            button("Train further", lambda: ask_training(self._visit, str(self._number)), icon="science")
        if parent is not None:
            _link("Compare with its parent", f"/ui/experiments/compare?ids={parent},{self._number}", "compare_arrows")
        if is_model:
            button("Metadata", lambda: download_metadata(self._visit, self._number), icon="download")
        self._pin = button("Keep files", self._toggle_pin, icon="push_pin")
        if not is_over:
            button("Cancel", lambda: ask_cancel(self._visit, self._account), icon="stop_circle", kind="grave")

    def _build_curves(self, account: Mapping[str, Any]) -> LearningCurves | None:
        if account["state"] in FINISHED and not account["series"]:
            return None  # it came from outside and brought none, or ended before it had any
        with card("Learning"):
            return LearningCurves()

    def _build_sections(self) -> list[Section]:
        lineage = Section(lambda it: (it["name"], it["experiment_id"], it["lineage"]), _build_lineage)
        with ui.element("div").classes("grid"):
            with ui.element("div").classes("stack"):
                left = [
                    Section(lambda it: it["metrics"], build_scores),
                    Section(lambda it: it["evaluations"], build_evaluations),
                    Section(lambda it: it["artifacts"], build_artifacts),
                ]
            with ui.element("div").classes("stack"):
                self._plan = Section(lambda it: plan_rows(it["plan"], self._differing), build_plan)
                environment = Section(lambda it: (it["lineage"]["commit"], it["environment"]), build_environment)
        return [lineage, *left, self._plan, environment, Section(lambda it: it["samples"], build_samples)]

    def _update(self, account: Mapping[str, Any]) -> None:
        self._account = account
        self._show_summary(account)
        self._actions.show(account)
        self._pin.set_text("Files are kept" if account["pinned"] else "Keep files")
        attribute(self._pin, "aria-pressed", str(account["pinned"]).lower())
        for section in self._sections:
            section.show(account)
        if self._curves is not None:
            self._curves.show(account["series"])
        if account["state"] not in FINISHED and self._stop_listening is None:
            self._stop_listening = self._visit.listen(f"/metrics/{self._number}?from_now=true", self._hear)

    def _show_summary(self, summary: Mapping[str, Any]) -> None:
        self._state.set_text(summary["state"])
        self._state.classes(replace=f"badge {STATES.get(summary['state'], '')}")
        self._progress.set_text(progress_words(summary))
        self._bar.show(share_of(summary))
        self._figures.show(figures_of(summary))
        self._error_box.set_visibility(bool(summary["error"]))
        self._error.set_text(f"{summary['error'] or ''}")

    def _hear(self, name: str, data: Any) -> None:
        if name == "points" and self._curves is not None:
            self._curves.add(data)
        elif name == LAST:
            self._stop_listening = None
            self._visit.refresh("/metrics/")
            self._visit.refresh("/experiments")
            self._visit.refresh("/deployments")
        elif name == "state":
            # What came between the account and the stream, and what another attempt has taken back, is in the account.
            before, self._heard = self._heard, (data["state"], data["attempt"])
            if before != self._heard:
                self._visit.refresh(self._path)
            self._show_summary(data)

    def _tell_deployments(self, snapshot: Snapshot) -> None:
        role = marks_of(snapshot.data).get(self._number, "")
        self._mark.set_text(role)
        self._mark.set_visibility(bool(role))

    def _tell_parent(self, snapshot: Snapshot) -> None:
        if snapshot.data is None:
            return
        parent = snapshot.data["experiments"][0]
        self._differing = snapshot.data["plan"] if parent["kind"] != "import" else {}
        self._plan.show(self._account)

    async def _toggle_pin(self) -> None:
        await pin(self._visit, self._number, not self._account["pinned"])


def _possible(account: Mapping[str, Any]) -> tuple[bool, bool, int | None]:
    return account["deployable"], account["state"] in FINISHED, account["parent_id"]


def _origin(account: Mapping[str, Any]) -> str:
    parents = account["lineage"]["parents"]
    beginning = "from outside" if account["kind"] == "import" else "from scratch"
    origin = f"from {parents[0]['name']}" if parents else beginning
    parts = f"#{account['experiment_id']}", f"{account['kind']} {origin}", f"by {account['actor']}"
    return ", ".join((*parts, words.clock(account["created"])))


def _build_lineage(told: tuple[str, int, Mapping[str, Any]]) -> None:
    name, number, lineage = told
    with card("Lineage"):
        draw(graph_of({"name": name, "experiment_id": number, "lineage": lineage}))


def _build_missing(number: str) -> None:
    with empty(f"There is no experiment {number}", "The table has all that there are.", "search_off").classes("high"):
        button("All experiments", lambda: ui.navigate.to("/experiments"), kind="primary")


def _link(label: str, address: str, icon: str) -> None:
    with ui.element("a").classes("link-button") as link:
        ui.icon(icon).props('aria-hidden="true"')
        text("span", label)
    attribute(link, "href", address)
