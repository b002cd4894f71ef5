"""Adding data: what to send, what it is called, how far it is, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from nicegui import ui

from lib.file_names import LONGEST_SLUG, SLUG_PATTERN, slug
from ml_service.frontend.api import ApiError
from ml_service.frontend.datasets.report import show_report
from ml_service.frontend.datasets.versions import train_on
from ml_service.frontend.parts import button, card, notice, text
from ml_service.frontend.uploading import Picked, Uploader, tell_refusal
from ml_service.frontend.visit import Visit

KINDS = (".txt", ".md", ".py", ".jsonl", ".csv", ".parquet", ".zip")
_NAME = re.compile(SLUG_PATTERN)


class AddData:
    """The form, and below it the report of what was sent last."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with card("Add data", "Each upload makes a version; what is there already is not added again."):
            with ui.element("div").classes("sheet"):
                self._uploader = Uploader(
                    "add_data", "files", KINDS, multiple=True, work="The service reads it…",
                    on_pick=self._show_picked, on_answer=self._answered,
                )  # fmt: skip
                with ui.element("div").classes("fields"):
                    self._fields()
            self._outcome = ui.element("div").classes("stack outcome").props('role="status"')

    def _fields(self) -> None:
        check = {"Lower-case letters, digits and single hyphens, up to 64": lambda name: not name or _is_name(name)}
        self._name = ui.input("Name of the source", validation=check).classes("full")
        self._name.props('outlined dense stack-label hint="Of the first file, where nothing is said."')
        with ui.element("div").classes("side"):
            self._licence = ui.input("Licence", placeholder="unknown").props("outlined dense stack-label maxlength=120")
            self._tags = ui.input("Tags", placeholder="with, commas").props("outlined dense stack-label")
        with ui.element("div").classes("line"):
            self._send = button("Add to the data set", self._begin, icon="upload", kind="primary")
        text("p", "Rows of .jsonl, .csv and .parquet have a column text. A tenth is held out to measure with.", "hint")
        self._show_picked(Picked())

    def _show_picked(self, picked: Picked) -> None:
        self._name.props(f'placeholder="{default_name(picked)}"')
        self._send.set_enabled(not picked.is_empty)

    def _begin(self) -> None:
        if not self._name.validate():
            return
        self._send.disable()
        self._outcome.clear()
        self._uploader.send(details(self._name.value, self._licence.value, self._tags.value))

    def _answered(self, answer: Any) -> None:
        self._send.set_enabled(not self._uploader.picked.is_empty)
        self._outcome.clear()
        with self._outcome:
            if answer is None:
                notice("You ended it; nothing was added.")
            elif isinstance(answer, ApiError):
                tell_refusal(answer)
            else:
                self._report(answer)

    def _report(self, answer: Mapping[str, Any]) -> None:
        self._uploader.empty()
        self._name.value = ""
        self._visit.refresh("/datasets")
        if answer["was_there"]:
            notice(f"Nothing was added, for the same content had come before ({answer['message']}). It was then:")
        else:
            notice(f"{answer['message'][:1].upper()}{answer['message'][1:]}.", "good" if answer["accepted"] else "")
        show_report(answer)
        with ui.element("div").classes("line"):
            if (version := answer["dataset_version"]) is not None:
                train_on(version)
            button("Put this away", self._outcome.clear)


def default_name(picked: Picked) -> str:
    """What the service would call it."""
    return slug(PurePath(picked.names[0]).stem, fallback="texts") if picked.names else "texts"


def details(name: str, licence: str, tags: str) -> dict[str, str]:
    """The fields beside it that say something."""
    given = [tag.strip() for tag in tags.split(",") if tag.strip()]
    fields = {"name": name.strip(), "licence": licence.strip(), "tags": ",".join(given)}
    return {field: value for field, value in fields.items() if value}


def _is_name(name: str) -> bool:
    return len(name) <= LONGEST_SLUG and _NAME.match(name) is not None
