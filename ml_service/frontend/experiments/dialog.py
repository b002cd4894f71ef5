"""The wish for a training: a dialog whose fields the service explains, and says what is wrong with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement

from ml_service.frontend.api import ApiError
from ml_service.frontend.experiments.actions import refresh
from ml_service.frontend.parts import attribute, button, dialog, text
from ml_service.frontend.regions import empty, tell_error
from ml_service.frontend.visit import Visit

BUDGETS = {"seconds": "Seconds", "tokens": "Tokens", "steps": "Steps"}
_USUAL = {"seconds": 300, "tokens": 1_000_000, "steps": 200}
_STARTS = "/experiments?state=succeeded&limit=1000"
_EXAMPLE = '{"learning_rate": 2e-4, "batch_size": 8}'


async def ask_training(visit: Visit, start_from: str = "active", dataset_version: int = 0) -> None:
    """Ask what to train, from which model, on which data (0 is the newest); then show it."""
    try:
        versions = (await visit.api.get("/datasets"))["datasets"]
        starts = (await visit.api.get(_STARTS))["experiments"]
        schemas = (await visit.api.get("/openapi.json"))["components"]["schemas"]
    except ApiError as error:
        tell_error(error)
        return
    with dialog("New training") as box:
        if not versions:
            with empty("No data yet", "There is nothing to train on. Add text on the Data page first.", "dataset"):
                button("Go to Data", lambda: ui.navigate.to("/data"), kind="primary")
            return
        box.props("persistent")  # what was typed is not lost by a click beside it
        TrainingForm(visit, box, versions, starts, schemas, start_from, dataset_version)


class TrainingForm:
    """The fields of `POST /retrain`."""

    def __init__(
        self,
        visit: Visit,
        box: ui.dialog,
        versions: list[Any],
        starts: list[Any],
        schemas: Mapping[str, Any],
        begin: str,
        version: int,
    ) -> None:
        self._visit, self._box, self._schemas = visit, box, schemas
        self._fields: dict[str, ValidationElement[Any]] = {}
        self._sent: tuple[Mapping[str, Any], str] = {}, ""
        with ui.element("form").classes("training-form").props("novalidate") as form:  # the service says it better
            form.on("submit.prevent", self._send)
            self._build_wish(versions, starts, begin, version)
            self._build_gate()
            with ui.expansion("More", icon="tune").classes("full more"), ui.element("div").classes("stack full"):
                self._build_more()
            self._trouble = text("p", "", "trouble").props('role="alert"')
            with ui.element("div").classes("dialog-actions"):
                button("Cancel", box.close)
                self._go = button("Train", kind="primary").props("type=submit")

    def _build_wish(self, versions: list[Any], starts: list[Any], begin: str, version: int) -> None:
        name = ui.input("Name").props("autofocus maxlength=120")
        self._field("experiment_name", name)
        models = {"active": "The model that answers now", "scratch": "No model: from scratch"}
        models |= {str(each["experiment_id"]): f"#{each['experiment_id']} {each['name']}" for each in starts}
        start = ui.select(models, label="Start from", value=begin if begin in models else "active", with_input=True)
        self._field("start_from", start)
        known = {0: "The newest version"}
        known |= {each["version"]: f"Version {each['version']}: {each['records']:,} records" for each in versions}
        self._field("dataset_version", ui.select(known, label="Data", value=version if version in known else 0))
        with ui.element("div").classes("line even"):
            self._field("budget", ui.number("Budget", value=_USUAL["seconds"], min=1), hint="")
            self._unit = ui.select(BUDGETS, label="Of", value="seconds", on_change=self._take_usual)
            self._unit.props("outlined dense options-dense")
        replay = self._default("RetrainRequest", "replay")
        self._field("replay", ui.number("Replay", value=replay, min=0, max=0.99, step=0.05))

    def _build_gate(self) -> None:
        self._gate = ui.checkbox("Deploy it by itself where it is better").props("dense")
        with ui.element("div").classes("line even").bind_visibility_from(self._gate, "value"):
            for name, label, step in (("better_by", "Better by", 0.01), ("old_worse_by", "Known text worse by", 0.01)):
                number = ui.number(label, value=self._default("DeployIf", name), min=0, step=step)
                self._field(f"deploy_if.{name}", number, hint=self._described("DeployIf", name))

    def _build_more(self) -> None:
        wide = ui.textarea("Hyperparameters, as JSON", placeholder=_EXAMPLE).props("autogrow").classes("mono-field")
        self._field("hyperparameters", wide)
        with ui.element("div").classes("line even"):
            for name, label in (("precision", "Precision"), ("strategy", "Strategy")):
                options = self._schemas["RetrainRequest"]["properties"][name]["enum"]
                self._field(name, ui.select(options, label=label, value=self._default("RetrainRequest", name)))
            seed = ui.number("Seed", value=0, min=0, precision=0)
            self._field("seed", seed, hint="The same seed, the same training.")

    def _field(self, name: str, element: Any, hint: str | None = None) -> None:
        element.props("outlined dense options-dense").classes("full")
        attribute(element, "hint", self._described("RetrainRequest", name) if hint is None else hint or None)
        self._fields[name] = element

    def _described(self, schema: str, name: str) -> str:
        return str(self._schemas[schema]["properties"][name].get("description", ""))

    def _default(self, schema: str, name: str) -> Any:
        return self._schemas[schema]["properties"][name].get("default")

    def _take_usual(self) -> None:
        self._fields["budget"].value = _USUAL[self._unit.value]

    async def _send(self) -> None:
        for field in self._fields.values():
            field.error = None
        self._trouble.set_text("")
        try:
            wish = wish_of(
                {name: field.value for name, field in self._fields.items()}, self._unit.value, self._gate.value
            )
        except ValueError as error:
            self._fields["hyperparameters"].error = str(error)
            return
        if wish != self._sent[0]:
            self._sent = wish, str(uuid4())  # the same wish, sent twice, is one training
        self._go.props("loading")
        try:
            asked = await self._visit.api.send("POST", "/retrain", wish, headers={"Idempotency-Key": self._sent[1]})
        except ApiError as error:
            self._tell(error)
            return
        finally:
            self._go.props(remove="loading")
        refresh(self._visit, asked["experiment_id"])
        ui.navigate.to(f"/experiments/{asked['experiment_id']}")

    def _tell(self, error: ApiError) -> None:
        placed, elsewhere = at_fields(error.fields, self._fields)
        for name, what in placed.items():
            self._fields[name].error = what
        self._trouble.set_text("; ".join(elsewhere) if placed else str(error))


def wish_of(values: Mapping[str, Any], unit: str, has_gate: bool) -> dict[str, Any]:
    """What `/retrain` is sent; what was left empty is left out. Raises ValueError where JSON is none."""
    start, amount = values["start_from"], values["budget"]
    wish: dict[str, Any] = {
        "experiment_name": (values["experiment_name"] or "").strip() or None,
        "start_from": int(start) if str(start).isdecimal() else start,
        "dataset_version": values["dataset_version"] or None,
        "budget": {unit: _whole(amount) if unit != "seconds" else amount},
        "hyperparameters": _hyperparameters(values["hyperparameters"] or ""),
        "seed": _whole(values["seed"]),
        **{name: values[name] for name in ("replay", "precision", "strategy")},
    }
    if has_gate:
        wish["deploy_if"] = {name: values[f"deploy_if.{name}"] for name in ("better_by", "old_worse_by")}
    return {name: value for name, value in wish.items() if value is not None}


def at_fields(errors: Mapping[str, str], fields: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
    """Field → what is wrong with it; and what is wrong with none of these fields."""
    placed: dict[str, str] = {}
    elsewhere: list[str] = []
    for where, what in errors.items():
        name = next((name for name in fields if where == name or where.startswith(f"{name}.")), None)
        if name is None:
            elsewhere.append(f"{where}: {what}")
            continue
        inside = where.removeprefix(name).lstrip(".") if name == "hyperparameters" else ""
        told = f"{inside}: {what}" if inside else what
        placed[name] = f"{placed[name]}; {told}" if name in placed else told
    return placed, elsewhere


def _hyperparameters(typed: str) -> dict[str, Any]:
    if not typed.strip():
        return {}
    try:
        read = json.loads(typed)
    except ValueError as error:
        raise ValueError(f"This is no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"This is to be an object, such as {_EXAMPLE}")
    return read


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value == int(value) else value
