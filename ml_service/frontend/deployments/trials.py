"""What is tried or watched: old beside new in figures and in lines, live, with what can be done about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.charts import LineChart, extend
from ml_service.frontend.deployments.changes import Changes
from ml_service.frontend.deployments.figures import Beside, Course, Trial, agreement, errors_and_speed, trials_of
from ml_service.frontend.deployments.words import Row, name_of, share, standing
from ml_service.frontend.parts import button, card, text

_FEW = 3
"""Points up to which a chart marks each of them."""
_TITLES = {"canary": "Canary", "shadow": "Shadow", "active": "Under watch"}
_NAMES = {"canary": ("active", "canary"), "shadow": ("active", "shadow"), "active": ("before", "now")}
_AGREEMENT = ("the very same answer", "begins the same")


class Trials:
    """A card for each; the rest of the page stays where it is when one comes or goes."""

    def __init__(self, changes: Changes, change_share: Callable[[Row], None], data: Row) -> None:
        self._changes, self._change_share = changes, change_share
        self._place = ui.element("div").classes("stack")
        self._cards: dict[tuple[str, int], _Card] = {}
        self.show(data)

    def show(self, data: Row) -> None:
        """What is told now."""
        trials = {trial.key: trial for trial in trials_of(data)}
        for key in self._cards.keys() - trials.keys():
            self._cards.pop(key).place.delete()
        for key, trial in trials.items():
            if key not in self._cards:
                with self._place:
                    self._cards[key] = _Card(trial, self._changes, self._change_share)
            self._cards[key].show(trial, data)
        self._place.set_visibility(bool(self._cards))


class _Card:
    """One that is tried or watched."""

    def __init__(self, trial: Trial, changes: Changes, change_share: Callable[[Row], None]) -> None:
        row = trial.row
        with card() as self.place:
            with ui.element("div").classes("card-head"):
                with ui.element("div").classes("line"):
                    text("h2", f"{_TITLES[trial.role]}: {name_of(row)}")
                    self._badge = text("span", "", "badge")
                if trial.role != "active":
                    _actions(trial, changes, change_share)
            self._sentence = text("p", "")
            with ui.element("div").classes("trial"):
                self._figures = _Figures(trial)
                self._courses = [_LiveChart(*each) for each in _charts(trial)]
            self._note = text("p", "", "hint")

    def show(self, trial: Trial, data: Row) -> None:
        word, kind, sentence = _verdict(trial, data)
        self._badge.set_text(word)
        self._badge.classes(replace=f"badge {kind}")
        self._sentence.set_text(sentence)
        self._figures.show(trial)
        for course in self._courses:
            course.show(trial, data["process"])
        self._note.set_text(_honest(trial, data))


def _actions(trial: Trial, changes: Changes, change_share: Callable[[Row], None]) -> None:
    with ui.element("div").classes("actions"):
        if trial.role == "canary":
            button("Change its share", lambda: change_share(trial.row), icon="tune")
        promote = button("Let it answer all", icon="upgrade", kind="primary")
        promote.on_click(lambda: changes.promote(trial.row, promote))
        end = button(f"End the {trial.role}", icon="stop")
        end.on_click(lambda: changes.end(trial.role, trial.row, end))


def _verdict(trial: Trial, data: Row) -> tuple[str, str, str]:
    """A word, its kind, a sentence."""
    if trial.role == "shadow":
        seen = trial.agreement
        if seen is None:
            return "opening", "busy", "The process that answers this page is about to open it."
        return f"{seen['compared']} compared", "busy", _compared(seen)
    if trial.watch is None:
        return "not watched", "", "Nothing is watched here (`ML_SERVICE_WATCH_S` is 0), or it is about to be opened."
    told = standing(trial.watch, trial.row, data["limits"], datetime.now(UTC))
    return (
        told.word,
        told.kind,
        f"{share(trial.row)} of the requests. {told.sentence}" if trial.role == "canary" else (told.sentence),
    )


def _compared(seen: Row) -> str:
    """Honest about what was not compared."""
    if not seen["compared"]:
        told = "Nothing compared yet: it is asked what the active model has answered, so answers must come."
    else:
        told = f"{words.number(seen['shadow_tokens'])} tokens beside {words.number(seen['active_tokens'])}."
    missed = [
        f"{seen[name]} {why}"
        for name, why in (
            ("failed", "failed"),
            ("dropped", "left out, for it was behind"),
            ("skipped", "not comparable, for they name tokens by number"),
        )
        if seen[name]
    ]
    return " ".join([told, *([f"Besides: {', '.join(missed)}."] if missed else [])])


def _honest(trial: Trial, data: Row) -> str:
    """What the figures are of, and what they are not."""
    where = f"As process {data['process']} sees it"
    others = len(data["replicas"]) - 1
    if others > 0:
        where += f"; {others} more {'answers' if others == 1 else 'answer'} and judge by themselves"
    if trial.role == "shadow":
        return f"{where}. The shadow runs with less urgency and on fewer threads: it is slower than it would be alone."
    if trial.watch is None:
        return f"{where}."
    figures = trial.watch["figures"]
    told = f"{where}: {figures['requests']} requests of the new one, {figures['errors']} of the latest failed."
    if not figures["compared"]:
        told += " Speed shows as soon as both have 20 answers under about the same load."
    return f"{told} The old one's figures are {_of_old(trial)}."


def _of_old(trial: Trial) -> str:
    return "of the same time" if trial.role == "canary" else "those of its last requests"


class _Figures:
    """Old beside new, each a number and a bar."""

    def __init__(self, trial: Trial) -> None:
        old, new = _NAMES[trial.role]
        self._places: list[tuple[_Bar, _Bar]] = []
        self._agreement: tuple[_Bar, _Bar] | None = None
        with ui.element("div").classes("beside"):
            if trial.role == "shadow":
                text("h3", "Answers")
                self._agreement = _Bar(_AGREEMENT[0], "one"), _Bar(_AGREEMENT[1], "two")
            for figure in errors_and_speed(trial):
                text("h3", figure.name)
                self._places.append((_Bar(old, "one"), _Bar(new, "two")))

    def show(self, trial: Trial) -> None:
        for figure, (old, new) in zip(errors_and_speed(trial), self._places, strict=True):
            old.show(figure.told(figure.old), figure.width(figure.old))
            new.show(figure.told(figure.new), figure.width(figure.new))
        if self._agreement is not None:
            same = agreement(trial)
            for bar, value in zip(self._agreement, (same.old, same.new), strict=True):
                bar.show(same.told(value), value or 0.0)


class _Bar:
    """A name, a bar, a number."""

    def __init__(self, name: str, kind: str) -> None:
        with ui.element("div").classes("bar-line"):
            text("span", name, "bar-name")
            with ui.element("span").classes("bar-place"):
                self._bar = ui.element("span").classes(f"bar-of {kind}")
            self._value = text("span", words.NOTHING, "number")

    def show(self, value: str, width: float) -> None:
        self._value.set_text(value)
        self._bar.style(f"width: {width}%")


def _charts(trial: Trial) -> list[tuple[str, str, str, str, Callable[[Trial], Beside]]]:
    """Title, unit, the name of either line, and what is drawn."""

    def speed(trial: Trial) -> Beside:
        return errors_and_speed(trial)[1]

    def errors(trial: Trial) -> Beside:
        return errors_and_speed(trial)[0]

    names = _NAMES[trial.role]
    first = (
        ("Agreement", "%", *_AGREEMENT, agreement)
        if trial.role == "shadow"
        else ("Requests that fail", "%", *names, errors)
    )
    return [first, ("Between tokens, 95 % within", "ms", *names, speed)]


class _LiveChart:
    """Two lines since the page was opened; those of the process that has told last."""

    def __init__(self, title: str, unit: str, old: str, new: str, figure: Callable[[Trial], Beside]) -> None:
        self._old, self._new, self._figure = old, new, figure
        self._courses: dict[str, Course] = {}
        self._drawn = ""
        with ui.element("div").classes("live"):
            text("h3", f"{title}, {unit}")
            self._wait = text("p", "Drawn live from the second figure on, for as long as this page is open.", "hint")
            self._chart = LineChart(
                {old: [], new: []}, x="time", unit=unit, from_zero=True, height="170px", name=f"{title}, live"
            )
        self._chart.chart.set_visibility(False)

    def show(self, trial: Trial, process: str) -> None:
        course, figure = self._courses.setdefault(process, Course()), self._figure(trial)
        before, is_other, self._drawn = len(course.times_ms), process != self._drawn, process
        if not course.note(time.time(), figure.old, figure.new) and not is_other:
            return
        points, lines = len(course.times_ms), course.lines(self._old, self._new)
        if points > _FEW and points == before + 1 and not is_other:
            extend({self._chart: [line[-1:] for line in lines.values()]}, points)
            return
        self._wait.set_visibility(points < 2)
        self._chart.chart.set_visibility(points > 1)
        self._chart.show(lines)
