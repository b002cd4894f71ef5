"""Playground: a prompt, all that can be turned, and the answer as it is made; of two models where one compares."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend.api import ApiError
from ml_service.frontend.parts import button, card, page_title, text
from ml_service.frontend.playground.answers import AnswerPane
from ml_service.frontend.playground.copying import CopyButtons
from ml_service.frontend.playground.form import ParameterForm
from ml_service.frontend.playground.models import ACTIVE, Models
from ml_service.frontend.playground.parameters import can_choose_model, parameters_of
from ml_service.frontend.playground.picture_field import PictureField
from ml_service.frontend.playground.prompt_field import PromptField
from ml_service.frontend.playground.reading import ReadText
from ml_service.frontend.playground.snippets import Wish
from ml_service.frontend.regions import Region
from ml_service.frontend.visit import Visit

_ALTERNATIVES = 5
"""Of each token, where nobody asks for another number."""
_AWAY_S = 2.0
"""So long a browser may be gone before nobody is thought to read on."""
_OPENAPI_EVERY_S = 300.0
_EXAMPLES = {
    "Read a file": "def read_lines(path):\n    ",
    "A class": 'class Stack:\n    """Last in, first out."""\n\n    def __init__(self):\n',
    "Imports": "import os\nimport sys\nimport ",
    "A test": "def test_addition():\n    assert ",
    "A loop": "for name, value in sorted(counts.items()):\n    ",
}
_LEGEND = (("90 % and more", 0), ("60 %", 1), ("30 %", 2), ("10 %", 3), ("less", 4))


def build(visit: Visit) -> None:
    """The page."""
    _Playground(visit)


class _Playground:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._models = Models(visit)
        self._form: ParameterForm | None = None
        self._is_comparing = False
        self._run: asyncio.Task[None] | None = None
        with page_title("Playground", "What comes after a prompt, token by token."):
            self._compare = ui.switch("Compare two", on_change=lambda event: self._set_comparing(bool(event.value)))
        self._notice = _no_model_yet()
        with ui.element("div").classes("grid two playground"):
            with ui.element("div").classes("stack"):
                self._build_prompt()
                self._build_answers()
            with ui.element("div").classes("stack"):
                self._build_parameters()
        self._models.listen(self._look)
        self._look()
        visit.client.on_disconnect(self._leave)
        visit.client.on_delete(self._stop)

    def _build_prompt(self) -> None:
        with card() as place:
            self._prompt = PromptField(self._start, self._stop)
            with ui.element("div").classes("line examples").props('role="group" aria-label="Examples"'):
                text("span", "Try", "hint")
                for name, example in _EXAMPLES.items():
                    _example(name).on_click(lambda example=example: self._prompt.put(example))
            with ui.element("div").classes("pictured"):
                self._picture = PictureField(place, self._picture_changed)
                self._read = ReadText(self._use_as_prompt)
            with ui.element("div").classes("line run-line"):
                self._run_button = button("Run", self._start, icon="play_arrow", kind="primary")
                self._run_button.props('aria-keyshortcuts="Control+Enter"')
                self._stop_button = button("Stop", self._stop, icon="stop").props('aria-keyshortcuts="Escape"')
                self._stop_button.disable()
                CopyButtons(self._wish)

    def _build_answers(self) -> None:
        with ui.element("div").classes("line legend").props('aria-label="Colours of the tokens"'):
            tint = ui.switch("Tint by probability", value=True)
            for words, step in _LEGEND:
                text("span", words, f"tint-key tint-{step}")
        with ui.element("div").classes("answers tinted") as self._answers:
            self._panes = [AnswerPane(self._visit, self._models, "Answer")]
            second = AnswerPane(self._visit, self._models, "Second answer")
            self._panes.append(second)
            second.card.set_visibility(False)
        tint.on_value_change(lambda event: self._answers.classes(toggle="tinted"))

    def _build_parameters(self) -> None:
        with ui.element("section").classes("card parameters") as place:
            with ui.element("div").classes("card-head"):
                text("h2", "Parameters")
                shown = "(event) => { const card = event.target.closest('.parameters'); const is = "
                shown += "card.classList.toggle('shown'); event.target.closest('button').ariaExpanded = is; }"
                fold = ui.button(icon="expand_more").props('flat round dense aria-label="Show the parameters"')
                fold.props('aria-expanded="false"').classes("tool fold").on("click", js_handler=shown)
            with ui.element("div").classes("parameters-body"):
                Region(self._visit, "/openapi.json", self._fill_form, every_s=_OPENAPI_EVERY_S, height="760px")
        self._parameters = place

    def _fill_form(self, openapi: Mapping[str, Any]) -> None:
        self._form = ParameterForm(parameters_of(openapi))
        for pane in self._panes:
            pane.choice.show(can_choose_model(openapi))
        self._compare.set_visibility(can_choose_model(openapi))

    def _look(self) -> None:
        self._notice.set_visibility(self._models.has_none)

    def _set_comparing(self, is_comparing: bool) -> None:
        self._is_comparing = is_comparing
        _, second = self._panes
        if is_comparing and second.choice.name == ACTIVE:
            second.choice.choose(self._models.second)
            if second.choice.name == ACTIVE:
                ui.notify("No other model can answer yet: both are the active one until another has been trained.")
        second.card.set_visibility(is_comparing)
        self._answers.classes(add="side-by-side" if is_comparing else "", remove="" if is_comparing else "side-by-side")

    def _start(self) -> None:
        if self._run is not None:
            return
        parameters = self._values()
        if parameters is None:
            return
        self._run = asyncio.create_task(self._answer(parameters), name="playground")
        self._run.add_done_callback(self._ended)
        self._run_button.disable()
        self._stop_button.enable()

    def _stop(self) -> None:
        if self._run is not None:
            self._run.cancel()

    def _ended(self, run: asyncio.Task[None]) -> None:
        self._run = None
        if not self._run_button.is_deleted:
            self._run_button.enable()
            self._stop_button.disable()
        if not run.cancelled():
            run.result()

    async def _leave(self) -> None:
        await asyncio.sleep(_AWAY_S)
        if not self._visit.client.has_socket_connection:
            self._stop()

    async def _answer(self, parameters: Mapping[str, Any]) -> None:
        prompt = self._prompt.text
        body = {"text": prompt, "logprobs": _ALTERNATIVES, **parameters, "stream": True}
        if self._picture.name is not None:
            body["image"] = await self._picture.as_base64()
        panes = self._panes if self._is_comparing else self._panes[:1]
        asked = [pane.answer(body, prompt, self._show_read) for pane in panes]
        told = await asyncio.gather(*asked, return_exceptions=True)
        with self._answers:
            self._mark([error for error in told if isinstance(error, ApiError)])
        for bug in told:
            if isinstance(bug, Exception) and not isinstance(bug, ApiError):
                raise bug

    def _mark(self, errors: list[ApiError]) -> None:
        """Each at its field, where the form has it; the answer's place tells all of them."""
        if self._form is not None:
            wrong = {loc.partition(".")[0]: what for error in errors for loc, what in error.fields.items()}
            self._form.mark(wrong)
            if wrong:
                self._parameters.classes(add="shown")

    def _values(self) -> dict[str, Any] | None:
        return {} if self._form is None else self._form.values()

    def _wish(self) -> Wish | None:
        parameters = self._values()
        if parameters is None:
            return None
        model = self._panes[0].choice.name
        named = {} if model == ACTIVE else {"model": model}
        wants_key = bool(self._visit.api.key)
        return Wish(self._visit.address, self._prompt.text, parameters | named, self._picture.name, wants_key)

    def _picture_changed(self) -> None:
        self._read.show(None)

    def _show_read(self, read: Mapping[str, Any]) -> None:
        self._picture.draw(read["lines"])
        self._read.show(read["text"])

    def _use_as_prompt(self, read: str) -> None:
        self._picture.take_away()
        self._prompt.put(read)


def _example(name: str) -> ui.button:
    return ui.button(name, color=None).props("flat dense no-caps").classes("example")


def _no_model_yet() -> ui.element:
    with ui.element("section").classes("card first-run") as place:
        text("h2", "No model answers yet")
        text("p", "Three steps to the first answer:", "hint")
        with ui.element("ol"):
            for address, name, what in (
                ("/ui/data", "Add data", "text to learn from, such as your own code"),
                ("/ui/experiments", "Train a model", "a minute is enough to see it learn"),
                ("/ui/deployments", "Deploy it", "from then on it answers here"),
            ):
                with ui.element("li"):
                    text("a", name).props(f'href="{address}"')
                    text("span", f": {what}.")
    return place
