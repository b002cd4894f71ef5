"""The form that deploys: which experiment and how, what follows from it, the proof, the outcome; one dialog."""

from __future__ import annotations

import secrets
from typing import Any

from nicegui import background_tasks, ui

from ml_service.frontend import words
from ml_service.frontend.api import ApiError
from ml_service.frontend.deployments.changes import send_deploy, tell_all
from ml_service.frontend.deployments.figures import scores_beside
from ml_service.frontend.deployments.now import facts_of
from ml_service.frontend.deployments.words import STRATEGIES, Row, consequences, done
from ml_service.frontend.parts import button, dialog, notice, text
from ml_service.frontend.regions import empty, failed, loading, tell_error
from ml_service.frontend.visit import Visit

DEFAULT_PERCENT = 10.0
_LONGEST_REASON = 200
_MOST_LISTED = 1000
_STEPS = ("choose", "confirm", "doing", "done")


class DeployForm:
    """Open when made. `chosen` is the experiment to begin with, of any state: what cannot be deployed is told."""

    def __init__(
        self, visit: Visit, chosen: int | None = None, strategy: str = "replace", percent: float = DEFAULT_PERCENT
    ) -> None:
        self._visit, self._chosen, self._begin, self._percents = visit, chosen, strategy, percent
        self._data: Row = {}
        self._experiments: dict[int, Row] = {}
        self._is_busy = False
        self._sent: tuple[Any, str] | None = None
        """The latest wish that has no answer, and its key: the same wish again must not be done twice."""
        with dialog("Deploy") as self._box:
            self._steps = {name: ui.element("div").classes("stack step") for name in _STEPS}
        self._box.on("hide", js_handler="() => history.replaceState(history.state, '', location.pathname)")
        self._go("choose")
        self._start()

    def _start(self) -> None:
        self._steps["choose"].clear()
        with self._steps["choose"]:
            loading(5)
        background_tasks.create(self._load(), name="deploy form")

    def _go(self, wanted: str, focus: ui.button | None = None) -> None:
        for name, step in self._steps.items():
            step.set_visibility(name == wanted)
        if focus is not None:  # what had it is hidden now
            with self._box:
                ui.run_javascript(f"getElement({focus.id}).$el.focus()")

    async def _load(self) -> None:
        api, place = self._visit.api, self._steps["choose"]
        try:
            self._data = await api.get("/deployments", limit=1)
            listed = await api.get("/experiments", limit=_MOST_LISTED)
        except ApiError as error:
            if not self._box.is_deleted:
                place.clear()
                with place:
                    failed(error, self._start)
            return
        if self._box.is_deleted:
            return
        self._experiments = {each["experiment_id"]: each for each in listed["experiments"]}
        place.clear()
        with place:
            self._build(self._options())

    def _options(self) -> dict[int, str]:
        active = self._data["active"]
        told = {active["experiment_id"]: ", answers now"} if active is not None else {}
        return {
            id_: f"{id_} · {each['name']}{told.get(id_, '')}"
            for id_, each in self._experiments.items()
            if each["deployable"]
        }

    def _build(self, options: dict[int, str]) -> None:
        if not options:
            empty("Nothing to deploy yet", "Train a model first: add data, then start an experiment.", "science")
            with ui.element("div").classes("dialog-actions"):
                button("Close", self._box.close)
            return
        chosen = self._chosen if self._chosen in options else None
        experiment = ui.select(options, label="Experiment", with_input=True, value=chosen).classes("full")
        experiment.props("outlined dense options-dense").on_value_change(lambda: self._choose(experiment.value))
        self._account = ui.element("div").classes("stack tight account")
        self._build_strategy()
        self._reason = ui.input("Why (optional, for the history)").props(
            f'outlined dense maxlength="{_LONGEST_REASON}"'
        )
        self._reason.classes("full")
        with ui.element("div").classes("dialog-actions"):
            button("Cancel", self._box.close)
            self._on = button("Go on", self._confirm, kind="primary")
        self._choose(self._chosen)

    def _build_strategy(self) -> None:
        can_try = self._data["active"] is not None
        options = {name: f"{name}: {told}" for name, told in STRATEGIES.items() if can_try or name == "replace"}
        with ui.element("fieldset").classes("strategies"):
            text("legend", "How")
            self._strategy = ui.radio(options, value=self._begin if self._begin in options else "replace")
            self._strategy.add_slot("label", _STRATEGY)
            with ui.element("div").classes("percent") as place:
                told = text("div", "", "percent-told")
                # The browser's own: the one of the framework hides from who cannot see it where the keys go.
                slider = ui.element("input").props(f'type="range" min="1" max="100" value="{self._percents:g}"')
                slider.props('aria-label="Share of the requests in percent"').on(
                    "input", lambda event: self._show_percent(told, float(event.args)),
                    js_handler="(event) => emit(event.target.value)", throttle=0.05,
                )  # fmt: skip
        self._show_percent(told, self._percents)
        place.set_visibility(self._strategy.value == "canary")
        self._strategy.on_value_change(lambda: place.set_visibility(self._strategy.value == "canary"))

    def _show_percent(self, told: Any, percents: float) -> None:
        self._percents = percents
        told.set_text(f"It answers {percents:g} % of the requests")

    def _choose(self, experiment_id: int | None) -> None:
        """Tell of it, beside the active one, before one decides."""
        self._chosen = experiment_id
        self._on.set_enabled(experiment_id is not None and experiment_id in self._options())
        self._account.clear()
        with self._account:
            if experiment_id is None:
                text("p", "Its scores stand here beside those of what answers now.", "hint")
                return
            if (experiment := self._experiments.get(experiment_id)) is not None:
                _show_scores(experiment, self._active_experiment())
            facts = text("p", "Reading what its bundle says of itself …", "hint")
        background_tasks.create(self._tell_bundle(experiment_id, facts), name="deploy form: bundle")

    def _active_experiment(self) -> Row | None:
        active = self._data["active"]
        return self._experiments.get(active["experiment_id"]) if active is not None else None

    async def _tell_bundle(self, experiment_id: int, place: Any) -> None:
        try:
            told = facts_of(await self._visit.api.get(f"/metadata/{experiment_id}"))
        except ApiError as error:
            told = {"Not to be deployed": str(error)}
        if not place.is_deleted:
            place.set_text(" · ".join(f"{name}: {value}" for name, value in told.items()))
            place.classes(add="refused" if "Commit" not in told else "")

    def _confirm(self) -> None:
        place = self._steps["confirm"]
        place.clear()
        experiment = self._experiments[self._wish[0]]
        name = f"{experiment['name']} (experiment {experiment['experiment_id']})"
        with place:
            for sentence in consequences(self._strategy.value, name, self._data, self._percents):
                text("p", sentence)
            with ui.element("div").classes("dialog-actions"):
                button("Back", lambda: self._go("choose"), icon="arrow_back")
                deploy = button("Deploy", self._deploy, icon="rocket_launch", kind="primary")
        self._go("confirm", deploy)

    @property
    def _wish(self) -> tuple[int, tuple[tuple[str, Any], ...]]:
        assert self._chosen is not None, "the button that goes on was enabled without an experiment: this is a bug"
        body: dict[str, Any] = {"strategy": self._strategy.value, "reason": (self._reason.value or "").strip()}
        if self._strategy.value == "canary":
            body["percent"] = self._percents
        return self._chosen, tuple(body.items())

    async def _deploy(self) -> None:
        if self._is_busy:
            return
        self._is_busy, wish = True, self._wish
        key = self._sent[1] if self._sent is not None and self._sent[0] == wish else secrets.token_hex(16)
        self._sent = wish, key
        self._wait()
        try:
            made = await send_deploy(self._visit, wish[0], dict(wish[1]), key)
        except ApiError as error:
            if not error.is_away:
                self._sent = None
            self._end(error)
        else:
            self._sent = None
            self._end(made)
        finally:
            self._is_busy = False
            tell_all(self._visit)

    def _wait(self) -> None:
        place = self._steps["doing"]
        place.clear()
        with place:
            with ui.element("div").classes("line").props('role="status"'):
                ui.spinner(size="22px").props('aria-hidden="true"')
                text("p", "Opening and proving the model …")
            text("p", "Seconds for a small one, minutes for a large one. It goes on where this is closed.", "hint")
            with ui.element("div").classes("dialog-actions"):
                close = button("Close", self._box.close)
        self._go("doing", close)

    def _end(self, outcome: ApiError | Row) -> None:
        """Here where the dialog is still open, else at the edge of the page."""
        if self._box.is_deleted:
            with self._visit.client:
                if isinstance(outcome, ApiError):
                    tell_error(outcome, "Not deployed")
                else:
                    ui.notify(done(outcome), type="positive")
            return
        place = self._steps["done"]
        place.clear()
        with place:
            if isinstance(outcome, ApiError):
                notice(f"Not deployed. {outcome}", "bad")
            else:
                notice(done(outcome), "good").props('role="status"')
            with ui.element("div").classes("dialog-actions"):
                if isinstance(outcome, ApiError):
                    button("Back", lambda: self._go("choose"), icon="arrow_back")
                close = button("Close", self._box.close, kind="primary")
        self._go("done", close)


def _show_scores(chosen: Row, active: Row | None) -> None:
    scores = scores_beside(chosen, active)
    if not scores:
        text("p", "It has no scores: evaluate it to know how good it is.", "hint")
        return
    is_same = active is not None and active["experiment_id"] == chosen["experiment_id"]
    with ui.element("div").classes("scroll"), ui.element("table").classes("scores"):
        with ui.element("thead"), ui.element("tr"):
            for name in ("Score", "Chosen", "Active now", "Change"):
                text("th", name)
        with ui.element("tbody"):
            for score in scores:
                with ui.element("tr"):
                    text("td", score.name.replace("_", " "))
                    text("td", words.score(score.chosen), "number")
                    text("td", words.score(score.active), "number")
                    text("td", score.change, f"change {score.change.rpartition(' ')[2]}")
    if is_same:
        text("p", "This one answers already.", "hint")
    elif all(score.active is None for score in scores):
        text("p", "What answers now was not judged on the same: evaluate both on one file to compare them.", "hint")


_STRATEGY = """
<span class="strategy">
  <b>{{ props.label.split(': ')[0] }}</b><span>{{ props.label.slice(props.label.indexOf(': ') + 2) }}</span>
</span>
"""
