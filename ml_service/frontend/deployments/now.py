"""What answers now and since when, what did before, and which processes have it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.deployments.words import Row, how, since
from ml_service.frontend.parts import card, text
from ml_service.frontend.regions import Region
from ml_service.frontend.visit import Visit

_NEVER_S = 3600.0
"""A bundle says always the same of itself."""


class Now:
    """Cards that change in place."""

    def __init__(self, visit: Visit, data: Row) -> None:
        self._visit = visit
        self._bundle: Region | None = None
        self._shown_experiment = 0
        with ui.element("div").classes("grid two"):
            with card("Answers now"), ui.element("div").classes("answers-now"):
                self._active = _Deployment(["Since", "How", "By", "Why"])
                self._bundle_place = ui.element("div")
            with ui.element("div").classes("stack"):
                with card("Before it", "where roll back leads"):
                    self._previous = _Deployment(["From", "Until", "By"])
                    self._nothing = text("p", "Nothing answered before that could be gone back to.", "hint")
                with card("Processes"):
                    self._replicas = _Replicas()
        self.show(data)

    def show(self, data: Row) -> None:
        """What is told now."""
        now, active, previous = datetime.now(UTC), data["active"], data["previous"]
        began = words.moment(active["activated"]) or now
        self._active.show(
            active,
            {
                "Since": f"{words.clock(active['activated'])}, for {since(began, now)}",
                "How": how(active), "By": active["actor"], "Why": active["reason"] or words.NOTHING,
            },
        )  # fmt: skip
        self._previous.place.set_visibility(previous is not None)
        self._nothing.set_visibility(previous is None)
        if previous is not None:
            times = {"From": words.clock(previous["activated"]), "Until": words.clock(previous["retired"])}
            self._previous.show(previous, {**times, "By": previous["actor"]})
        self._replicas.show(data["replicas"], data["generation"])
        self._show_bundle(active["experiment_id"])

    def _show_bundle(self, experiment_id: int) -> None:
        if experiment_id == self._shown_experiment:
            return
        self._shown_experiment = experiment_id
        if self._bundle is not None:
            self._bundle.end()
        self._bundle_place.clear()
        with self._bundle_place:
            path = f"/metadata/{experiment_id}"
            self._bundle = Region(self._visit, path, _show_facts, every_s=_NEVER_S, height="5.5rem")


def facts_of(metadata: Row) -> dict[str, str]:
    """What a bundle says of itself, as far as one asks before it answers."""
    return {
        "Size": f"{words.count(metadata['parameters'])} parameters, {metadata['precision']}",
        "Commit": metadata["commit"][:12],
        "Exported": words.clock(metadata["date"]),
    }


def _show_facts(metadata: Row) -> None:
    facts = Facts(list(facts_of(metadata)))
    facts.show(facts_of(metadata))


class Facts:
    """Names and values that change in place."""

    def __init__(self, names: Sequence[str]) -> None:
        self._values = {}
        with ui.element("dl").classes("pairs"):
            for name in names:
                text("dt", name)
                self._values[name] = text("dd", words.NOTHING)

    def show(self, values: dict[str, str]) -> None:
        """From now on; what is not named stays."""
        for name, value in values.items():
            self._values[name].set_text(value)


class _Deployment:
    """An experiment's name, its generation, and facts of its deployment."""

    def __init__(self, names: Sequence[str]) -> None:
        with ui.element("div").classes("stack tight") as self.place:
            with ui.element("div").classes("line"):
                self._name = text("a", "", "deployed-name")
                self._generation = text("span", "", "badge")
            self._facts = Facts(names)

    def show(self, row: Row, facts: dict[str, str]) -> None:
        self._name.set_text(row["experiment"])
        self._name.props(f'href="/ui/experiments/{row["experiment_id"]}"')
        self._generation.set_text(f"generation {row['generation']}")
        self._facts.show(facts)


class _Replicas:
    """How many have what the slot says; who has not, and why."""

    def __init__(self) -> None:
        self._sentence = text("p", "")
        self._behind = ui.element("ul").classes("behind")
        self._shown: list[Any] = []

    def show(self, replicas: Sequence[Row], generation: int) -> None:
        behind = [each for each in replicas if each["generation"] < generation or each["state"] != "ready"]
        self._sentence.set_text(in_words(len(replicas), len(behind), generation))
        told = [f"{each['id']} answers with generation {each['generation']}{_why(each)}" for each in behind]
        if told == self._shown:
            return
        self._shown = told
        self._behind.clear()
        with self._behind:
            for line in told:
                text("li", line)


def in_words(of: int, behind: int, generation: int) -> str:
    """How many processes have it."""
    if not of:
        return "No process that answers has told of itself yet."
    if of == 1:
        return f"The one that answers {'is behind' if behind else f'has generation {generation}'}."
    return f"{of - behind} of {of} have generation {generation}."


def _why(replica: Row) -> str:
    return f": {replica['detail']}" if replica["detail"] else ""
