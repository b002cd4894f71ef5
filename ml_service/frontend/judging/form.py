"""Putting a question to a model: rows to judge, how they begin, which columns and metrics, and who is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend.api import ApiError
from ml_service.frontend.judging import preview as evaluate_preview
from ml_service.frontend.judging.preview import Preview
from ml_service.frontend.judging.question import KINDS, ROLES, Question, kind_of, metrics_of
from ml_service.frontend.parts import button, card, notice, text
from ml_service.frontend.regions import Region, tell_error
from ml_service.frontend.tables import Column, Table
from ml_service.frontend.uploading import Picked, Uploader, tell_refusal
from ml_service.frontend.visit import Visit

_EXPERIMENTS, _ACTIVE = "/experiments?state=succeeded&limit=200", 0
_WAIT = "wait=3"
"""So long the answer is waited for; what takes longer is followed on a page of its own."""
_LABELS = {"text": "Texts", "label": "Labels", "prompt": "Prompts", "target": "Targets", "image": "Images"}
_DENSE = "outlined dense stack-label"


class QuestionForm:
    """The form; its answer is a page of its own."""

    def __init__(self, visit: Visit) -> None:
        self._visit, self._preview = visit, Preview()
        with card("Judge a model", "on rows of your own"), ui.element("div").classes("sheet"):
            with ui.element("div").classes("stack"):
                self._uploader = Uploader(
                    "evaluate", "file", evaluate_preview.KINDS, multiple=False, work="The service judges it…",
                    on_pick=self._picked, on_answer=self._answered,
                )  # fmt: skip
                self._beginning = ui.element("div").classes("stack")
            with ui.element("div").classes("fields"):
                self._make_fields()

    def _make_fields(self) -> None:
        Region(self._visit, _EXPERIMENTS, self._make_experiments, self._show_experiments, every_s=30.0, height="42px")
        text("h3", "What is judged")
        self._kind = ui.toggle(dict(KINDS), value="guess", on_change=self._show_kind)
        self._kind.classes("switch").props('unelevated no-caps dense aria-label="What is judged"')
        with ui.element("div").classes("side") as self._columns:
            self._roles = {role: self._column_select(role, label) for role, label in _LABELS.items()}
        self._metrics = ui.select([], label="Metrics, where not all that fit", multiple=True, clearable=True)
        self._metrics.props(f"{_DENSE} use-chips hide-bottom-space").classes("full")
        with ui.element("div").classes("side") as self._generation:
            self._most = ui.number("max_new_tokens", placeholder="64", min=1, max=4096, precision=0).props(_DENSE)
            self._stop = ui.textarea("stop, one on each line", placeholder="\\n for a line end").props(
                f"{_DENSE} rows=1 autogrow"
            )
        with ui.element("div").classes("side") as self._labelling:
            self._labels = ui.textarea("Texts of labels", placeholder="1 = right").props(f"{_DENSE} rows=2 autogrow")
            self._delimiter = ui.input("Between text and label", placeholder="a space").props(_DENSE)
        with ui.element("div").classes("line"):
            self._judge = button("Judge", self._begin, icon="fact_check", kind="primary")
            button("Use an example", self._fill_example, icon="lightbulb")
        self._outcome = ui.element("div").props('role="status"')
        self._picked(Picked())

    def _column_select(self, role: str, label: str) -> ui.select:
        made = ui.select([], label=label, with_input=True, new_value_mode="add-unique", on_change=self._show_metrics)
        return made.props(f'{_DENSE} hide-bottom-space placeholder="a column\'s name"')

    def _make_experiments(self, told: Mapping[str, Any]) -> None:
        self._experiment = ui.select({_ACTIVE: ""}, value=_ACTIVE, label="Whose model").classes("full").props(_DENSE)
        self._show_experiments(told)

    def _show_experiments(self, told: Mapping[str, Any]) -> None:
        names = {each["experiment_id"]: f"{each['experiment_id']} · {each['name']}" for each in told["experiments"]}
        self._experiment.set_options({_ACTIVE: "The active one", **names}, value=self._experiment.value)

    async def _fill_example(self) -> None:
        """The one of the service's own description."""
        try:
            described = await self._visit.api.get("/openapi.json")
        except ApiError as error:
            tell_error(error, "No example")
            return
        example = described["components"]["schemas"]["EvaluateRequest"]["examples"][0]
        self._uploader.fill("\n".join(line for line in example["texts"][0].split("\n") if line))

    def _picked(self, picked: Picked) -> None:
        self._judge.set_enabled(not picked.is_empty)
        self._outcome.clear()
        if picked.is_text or not picked.names:
            self._preview = Preview()
        else:
            self._preview = evaluate_preview.preview(picked.names[0], picked.head, picked.has_more)
        self._beginning.clear()
        with self._beginning:
            _show_beginning(self._preview)
        suggested = self._preview.suggestion
        for role, select in self._roles.items():
            select.set_options(list(self._preview.columns), value=getattr(suggested, role))
            is_guessed = getattr(self._preview.guess, role) is not None
            select.props(remove="clearable" if is_guessed else "", add="" if is_guessed else "clearable")
        is_known = picked.is_text or bool(self._preview.columns)
        self._kind.set_value(kind_of(suggested) if is_known else "guess")
        self._show_kind()

    def _show_kind(self) -> None:
        has_columns = not self._uploader_is_text
        for role, select in self._roles.items():
            select.set_visibility(has_columns and role in ROLES[self._kind.value])
        self._columns.set_visibility(has_columns and bool(ROLES[self._kind.value]))
        self._generation.set_visibility(self._kind.value in ("prompt", "guess"))
        self._show_metrics()

    def _show_metrics(self) -> None:
        has_label = self._kind.value == "text" and bool(self._roles["label"].value)
        self._labelling.set_visibility(has_label)
        fitting = metrics_of(self._kind.value, has_label)
        kept = [name for name in self._metrics.value or [] if name in fitting]
        self._metrics.set_options(list(fitting), value=kept)

    @property
    def _uploader_is_text(self) -> bool:
        return self._uploader.picked.is_text

    def _begin(self) -> None:
        self._outcome.clear()
        try:
            fields = self._question().fields(self._preview.guess)
        except ValueError as error:
            with self._outcome:
                notice(f"{error}.", "bad")
            return
        self._judge.disable()
        self._uploader.send(fields, _WAIT)

    def _question(self) -> Question:
        experiment_id = self._experiment.value if hasattr(self, "_experiment") else _ACTIVE
        columns = {} if self._uploader_is_text else {r: s.value for r, s in self._roles.items() if s.value}
        return Question(
            self._kind.value, columns, self._metrics.value or (), experiment_id or None,
            int(self._most.value) if self._most.value else None, self._stop.value or "", self._labels.value or "",
            self._delimiter.value or None,
        )  # fmt: skip

    def _answered(self, answer: Any) -> None:
        self._judge.enable()
        self._outcome.clear()
        if isinstance(answer, Mapping):
            self._visit.refresh("/evaluations")
            known = "&known=1" if answer["cached"] else ""
            ui.navigate.to(f"/evaluate?id={answer['id']}{known}")
            return
        with self._outcome:
            if answer is None:
                notice("You ended it; nothing was judged.")
            else:
                tell_refusal(answer)


def _show_beginning(preview: Preview) -> None:
    if preview.words:
        notice(preview.words, "bad" if preview.is_bad else "")
    if preview.columns:
        text("h3", "It begins so")
        columns = [Column(f"c{n}", name, classes="cell") for n, name in enumerate(preview.columns)]
        rows = [{f"c{n}": row.get(name, "") for n, name in enumerate(preview.columns)} for row in preview.rows]
        Table("First rows", columns, rows, is_tight=True)
