"""The form of generation parameters: each with its help and default, and what the service says against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ml_service.frontend.parts import button, text
from ml_service.frontend.playground.parameters import COMMON, Parameter

_SLIDERS: Mapping[str, tuple[float, float, float]] = {
    "max_new_tokens": (0, 512, 1),
    "temperature": (0, 2, 0.05),
    "top_k": (0, 100, 1),
    "top_p": (0.05, 1, 0.01),
    "min_p": (0, 1, 0.01),
    "repetition_penalty": (0.5, 2, 0.05),
}
"""Where most values are; the field beside takes any that the service does."""
_EXAMPLES = {
    "stop": "\\n\\n (one a line; \\n is a new line)",
    "regex": "[0-9]{2,5}",
    "json_schema": '{"type": "object"}',
    "logit_bias": '{"199": -100}',
    "stop_token_ids": "199, 3",
    "seed": "drawn anew",
    "logprobs": "the page asks for 5",
}
_SENT_AS_LINES = ("strings", "json")


class ParameterForm:
    """Place it with `with`; `values` is what is sent."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._fields = {parameter.name: _Field(parameter) for parameter in parameters if parameter.name in COMMON}
        rest = [parameter for parameter in parameters if parameter.name not in COMMON]
        with ui.element("details").classes("more") as self._more:
            text("summary", "More")
            self._hidden = {parameter.name: _Field(parameter) for parameter in rest}
        self._fields |= self._hidden
        button("Back to the defaults", self.reset, icon="restart_alt")

    def values(self) -> dict[str, Any] | None:
        """What differs from the default; None where something cannot be sent, which its field says."""
        found, wrong = dict[str, Any](), dict[str, str]()
        for name, field in self._fields.items():
            try:
                value = field.value()
            except ValueError as error:
                wrong[name] = str(error)
                continue
            if value is not None:
                found[name] = value
        self.mark(wrong)
        return None if wrong else found

    def mark(self, wrong: Mapping[str, str]) -> None:
        """Say at each field what is wrong with it, and go to the first; what is right says nothing more."""
        for name, field in self._fields.items():
            field.tell(wrong.get(name))
        first = next((name for name in self._fields if name in wrong), None)
        if first is None:
            return
        if first in self._hidden:
            ui.run_javascript(f"document.getElementById('{self._more.html_id}').open = true")
        self._fields[first].focus()

    def reset(self) -> None:
        """As the service has it when nobody says anything."""
        for field in self._fields.values():
            field.reset()


class _Field:
    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter
        self._slider: ui.slider | None = None
        with ui.element("div").classes("parameter"):
            self._input = self._ticked() if parameter.kind == "boolean" else self._typed()
            text("p", parameter.hint, "parameter-help").props(f'id="help-{parameter.name}"')
        self._input.props(f'aria-describedby="help-{parameter.name}"')

    def _ticked(self) -> ui.checkbox:
        return ui.checkbox(self._parameter.name, value=bool(self._parameter.default)).classes("mono")

    def _typed(self) -> ui.input:
        parameter = self._parameter
        with ui.element("div").classes("parameter-line"):
            text("span", parameter.name, "parameter-name mono").props('aria-hidden="true"')
            if (scale := _SLIDERS.get(parameter.name)) is not None:
                self._slider = _slider(parameter, scale, self._slid)
            field = ui.input(
                value=parameter.default_text, placeholder=_EXAMPLES.get(parameter.name), on_change=self._changed
            )
            field.props(f'outlined dense hide-bottom-space aria-label="{parameter.name}"')
            field.classes("parameter-field mono")
            if parameter.kind in _SENT_AS_LINES:
                field.props("type=textarea autogrow")
            elif parameter.kind in ("integer", "number"):
                field.props("inputmode=decimal")
                field.classes("parameter-number" if self._slider else "")
        return field

    def value(self) -> Any:
        typed = self._input.value
        return self._parameter.value_of(typed if isinstance(typed, bool) else str(typed or ""))

    def tell(self, wrong: str | None) -> None:
        if isinstance(self._input, ui.input):
            self._input.error = wrong

    def focus(self) -> None:
        self._input.run_method("focus")

    def reset(self) -> None:
        if isinstance(self._input, ui.input):
            self._input.set_value(self._parameter.default_text)
        else:
            self._input.set_value(bool(self._parameter.default))
        self.tell(None)

    def _slid(self, value: float) -> None:
        if isinstance(self._input, ui.input):
            self._input.set_value(f"{value:g}")

    def _changed(self) -> None:
        self.tell(None)
        if self._slider is not None:
            try:
                self._slider.set_value(float(self._input.value or self._parameter.default_text))
            except ValueError:
                return


def _slider(parameter: Parameter, scale: tuple[float, float, float], on_slide: Any) -> ui.slider:
    low, high, step = scale
    slider = ui.slider(min=low, max=high, step=step, value=parameter.default)
    # Only what a hand does counts: a value beyond the scale stays in the field.
    slider.on("update:model-value", lambda event: on_slide(float(event.args)), throttle=0.05)
    return slider.props(f'aria-label="{parameter.name}, slider"').classes("parameter-slider")
