"""Sections of an experiment's page: scores, plan, artifacts, evaluations, samples, environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from lib.nested import flattened
from ml_service.frontend import words
from ml_service.frontend.experiments.facts import NEW, PlanRow, plain, samples_in, scores_of
from ml_service.frontend.parts import attribute, badge, card, figure, text

_OTHER_FIGURES = ("exact_match", "chrf", "cer", "wer", "perplexity", "loss")
_NUMBERS = ("This model", "The one before", "Change", "Size", "Bits per byte")
"""Heads of columns with numbers in them."""


class Section:
    """Made anew where what it shows has changed, and only then."""

    def __init__(
        self, pick: Callable[[Mapping[str, Any]], Any], build: Callable[[Any], None], classes: str = ""
    ) -> None:
        self._pick, self._build, self._shown = pick, build, object()
        self.place = ui.element("div").classes(f"section {classes}")

    def show(self, account: Mapping[str, Any]) -> None:
        """As it stands now."""
        picked = self._pick(account)
        if picked == self._shown:
            return
        self._shown = picked
        self.place.clear()
        with self.place:
            self._build(picked)


class Figures:
    """Numbers that are looked at, changed in place."""

    def __init__(self) -> None:
        self._numbers: dict[str, TextElement] = {}
        self._place = ui.element("div").classes("figures")

    def show(self, figures: Mapping[str, str]) -> None:
        """Name → value."""
        if figures.keys() != self._numbers.keys():
            self._place.clear()
            with self._place:
                self._numbers = {name: figure(name, "") for name in figures}
        for name, value in figures.items():
            self._numbers[name].set_text(value)


def build_scores(metrics: Mapping[str, Any]) -> None:
    """Each held-out text: bits per byte, beside what the model before had; and the gate's verdict."""
    scores, verdict = scores_of(metrics), metrics.get("verdict")
    with card("Scores", "bits per byte of held-out text; lower is better"):
        if not scores:
            text("p", "They come at the end of the training.", "hint")
            return
        with _table("Text", "This model", "The one before", "Change"):
            for source, score in scores.items():
                with ui.element("tr"):
                    text("td", "new text" if source == NEW else source)
                    attribute(
                        text("td", score.words, "number foreign" if score.is_foreign else "number"),
                        "title",
                        score.account,
                    )
                    text("td", words.score(score.before), "number")
                    with ui.element("td").classes("number"):
                        text("span", score.change.replace("-", "\N{MINUS SIGN}") or "", f"change {score.kind}")
        if verdict:
            with ui.element("p").classes("line"):
                badge("passed" if verdict["passed"] else "not deployed", "good" if verdict["passed"] else "bad")
                text("span", f"{verdict['reason']}.")


def build_plan(rows: tuple[PlanRow, ...]) -> None:
    """What was asked, and the recipe that it became; what differs from the parent's is marked."""
    has_changes = any(row.is_other for row in rows)
    with card("Plan", "marked where it differs from the parent's" if has_changes else ""):
        if not rows:
            text("p", "It was not trained here: its plan is not known.", "hint")
        for group in dict.fromkeys(row.group for row in rows):
            text("h3", group)
            with ui.element("dl").classes("pairs plan"):
                for row in (row for row in rows if row.group == group):
                    text("dt", row.name)
                    with ui.element("dd"):
                        text("span", row.value, "other" if row.is_other else "")
                        if row.is_other:
                            text("span", f"parent: {row.before}", "hint")


def build_artifacts(artifacts: list[Mapping[str, Any]]) -> None:
    """What lies on the disk, or did."""
    with card("Artifacts"):
        if not artifacts:
            text("p", "It has left nothing yet.", "hint")
            return
        with _table("What", "Size", "SHA-256"):
            for artifact in artifacts:
                with ui.element("tr").classes("gone" if artifact["removed"] else ""):
                    text("td", artifact["role"])
                    text("td", words.size(artifact["size_bytes"]), "number")
                    with ui.element("td"), ui.element("div").classes("line tight nowrap"):
                        text("code", artifact["sha256"][:12])
                        copy_button(artifact["sha256"], f"Copy the SHA-256 of the {artifact['role']}")
                        if artifact["removed"]:
                            text("span", f"removed {words.ago(artifact['removed'])}", "hint")


def build_evaluations(evaluations: list[Mapping[str, Any]]) -> None:
    """What it was judged on, the newest first."""
    with card("Evaluations"):
        if not evaluations:
            text("p", "It has not been judged yet.", "hint")
            return
        with _table("Data", "Bits per byte", "Other figures", "When"):
            for each in evaluations:
                metrics = each["metrics"]
                others = [name for name in _OTHER_FIGURES if name in metrics]
                with ui.element("tr"):
                    with ui.element("td"):
                        attribute(text("a", each["data"]), "href", f"/ui/evaluate?id={each['id']}")
                    text("td", words.score(metrics.get("bits_per_byte")), "number")
                    text("td", ", ".join(f"{name} {words.score(metrics[name])}" for name in others[:2]), "hint")
                    text("td", words.ago(str(each["at"])), "hint")


def build_samples(markdown: str | None) -> None:
    """What it wrote at the end of its training."""
    if not markdown:
        return
    with card("Samples", "what the model wrote at the end of its training"), ui.element("div").classes("samples"):
        for sample in samples_in(markdown):
            text("pre", sample, "sample")


def build_environment(facts: tuple[str, Mapping[str, Any]]) -> None:
    """On what it was trained."""
    commit, environment = facts
    with card("Environment"), ui.element("dl").classes("pairs"):
        text("dt", "commit")
        with ui.element("dd").classes("line tight"):
            text("code", commit[:12] + ("-dirty" if commit.endswith("-dirty") else ""))
            copy_button(commit, "Copy the commit")
        for name, value in flattened(environment).items():
            text("dt", name.rpartition(".")[2])
            text("dd", plain(value))


def copy_button(what: str, label: str) -> None:
    """Puts it on the clipboard."""
    made = ui.button(icon="content_copy", on_click=lambda: ui.notify("Copied", position="bottom", timeout=1000))
    made.props("flat round dense size=sm").classes("tool small")
    made.on("click", js_handler=f"() => mlPage.copy({json.dumps(what)})")
    attribute(made, "aria-label", label)
    attribute(made, "title", label)


@contextmanager
def _table(*heads: str) -> Iterator[None]:
    with ui.element("div").classes("scroll"), ui.element("table").classes("table"):
        with ui.element("thead"), ui.element("tr"):
            for head in heads:
                text("th", head, "number" if head in _NUMBERS else "")
        with ui.element("tbody"):
            yield
