"""Experiments side by side: their curves laid over each other, their scores, and where their plans differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.experiments.charts import LOSS, framed
from ml_service.frontend.experiments.curves import Curves, Toolbar
from ml_service.frontend.experiments.facts import (
    FINISHED,
    NEW,
    STATES,
    Scored,
    best_of,
    data_words,
    network_words,
    plain,
    scores_of,
    validated,
)
from ml_service.frontend.experiments.sections import Section
from ml_service.frontend.feeds import Snapshot
from ml_service.frontend.parts import attribute, badge, button, card, page_title, text
from ml_service.frontend.regions import Region, empty
from ml_service.frontend.visit import Visit

MOST = 20
_POINTS = 300
_EVERY_S, _CURVES_EVERY_S = 5.0, 60.0
_HEIGHT = "300px"
_TOLD_ELSEWHERE = (
    "wish.experiment_name",
    "wish.hyperparameters",
    "training.seconds",
    "training.tokens",
    "training.steps",
)
"""In the heads, among the rest of the recipe, by the budget."""


def build(visit: Visit) -> None:
    """The page."""
    numbers = numbers_in(visit.query.get("ids", ""))
    with page_title("Compare", "Curves over each other, scores side by side, and only what differs of the plans."):
        button("All experiments", lambda: ui.navigate.to("/experiments"), icon="arrow_back")
    if not 2 <= len(numbers) <= MOST:
        with empty(
            "Nothing to compare", f"Select 2 to {MOST} experiments in the table, then Compare.", "compare_arrows"
        ):
            button("All experiments", lambda: ui.navigate.to("/experiments"), kind="primary")
        return
    Comparison(visit, numbers)


def numbers_in(ids: str) -> list[int]:
    """Those that may be experiments' numbers, each once."""
    found = [int(part) for part in ids.split(",") if part.strip().isdecimal() and 0 < int(part) < 2**63]
    return list(dict.fromkeys(found))


class Comparison:
    """Tables follow one route; each experiment's curves its own, and its events while it trains."""

    def __init__(self, visit: Visit, numbers: Sequence[int]) -> None:
        self._visit = visit
        self._charts: dict[str, Curves] = {}
        self._listened: set[int] = set()
        path = "/experiments/compare?ids=" + ",".join(map(str, numbers))
        Region(visit, path, self._build, self._update, every_s=_EVERY_S, height="40rem", missing=_build_missing)

    def _build(self, data: Mapping[str, Any]) -> None:
        self._labels = {
            each["experiment_id"]: f"#{each['experiment_id']} {each['name']}" for each in data["experiments"]
        }
        with ui.element("div").classes("stack"):
            scores = Section(lambda data: data["experiments"], _build_scores)
            with card("Curves"):
                self._toolbar = Toolbar()
                self._places = ui.element("div").classes("charts wide")
            self._chart(LOSS)
            plans = Section(lambda data: (data["experiments"], data["plan"]), _build_plans)
        self._tables = scores, plans
        for number in self._labels:
            self._visit.follow(f"/metrics/{number}?max_points={_POINTS}", _CURVES_EVERY_S, self._taker(number))
        self._update(data)

    def _update(self, data: Mapping[str, Any]) -> None:
        for table in self._tables:
            table.show(data)
        for each in data["experiments"]:
            number = each["experiment_id"]
            if each["state"] not in FINISHED and number not in self._listened:
                self._listened.add(number)
                self._visit.listen(f"/metrics/{number}?from_now=true", self._hearer(number))

    def _taker(self, number: int) -> Any:
        def take(snapshot: Snapshot) -> None:
            if snapshot.data is None:
                return
            for chart, columns in self._placed(snapshot.data["series"]):
                self._chart(chart).show({self._labels[number]: columns})

        return take

    def _hearer(self, number: int) -> Any:
        def hear(name: str, data: Any) -> None:
            if name == "points":
                for chart, columns in self._placed(data):
                    self._chart(chart).add({self._labels[number]: columns})
            elif name == "state" and data["state"] != "queued":
                self._visit.refresh("/experiments/compare")

        return hear

    def _placed(self, series: Mapping[str, Any]) -> list[tuple[str, Any]]:
        return [(key, columns) for key, columns in series.items() if key == LOSS or validated(key) is not None]

    def _chart(self, key: str) -> Curves:
        if key not in self._charts:
            title, unit = _title_of(key)
            with self._places:
                curves = framed(title, unit, _HEIGHT, tuple(self._labels.values()))
            self._charts[key] = self._toolbar.rule(curves, can_be_smooth=key == LOSS)
        return self._charts[key]


def _title_of(key: str) -> tuple[str, str]:
    source = validated(key)
    if source is None:
        return "Training loss", "nats per token"
    return "Held out: new text" if source == NEW else f"Held out: {source}", "bits per byte"


@dataclass(frozen=True)
class ScoreRow:
    """Bits per byte of each on one held-out text; `best` are places, none where the texts are not the same."""

    source: str
    scores: tuple[Scored, ...]

    @property
    def is_same_text(self) -> bool:
        """Whether all that were measured here were measured on the same; its size tells."""
        return len({score.size_bytes for score in self._measured}) < 2

    @property
    def best(self) -> set[int]:
        """Places of the lowest."""
        measured = self._measured if self.is_same_text else ()
        return best_of([score.value if score in measured else None for score in self.scores])

    @property
    def _measured(self) -> list[Scored]:
        return [score for score in self.scores if score.value is not None and not score.is_foreign]


def score_rows(experiments: Sequence[Mapping[str, Any]]) -> list[ScoreRow]:
    """The new text first. Of a bundle from outside stands what it had on the texts of one that began with it."""
    scores = [scores_of(each["metrics"]) for each in experiments]
    for place, each in enumerate(experiments):
        for other, of_other in zip(experiments, tuple(scores), strict=True):
            if each["kind"] == "import" and other["parent_id"] == each["experiment_id"]:
                scores[place] = scores[place] | {
                    source: Scored(score.before, size_bytes=score.size_bytes)
                    for source, score in of_other.items()
                    if score.before is not None
                }
    sources = sorted({source for each in scores for source in each}, key=lambda source: (source != NEW, source))
    return [ScoreRow(source, tuple(each.get(source, Scored(None)) for each in scores)) for source in sources]


def differing(experiments: Sequence[Mapping[str, Any]], plan: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Where the plans of those that were trained here are not the same, but for what is told elsewhere."""
    trained = _trained(experiments)
    rows = {
        name: [plain(row[place]) for place in trained]
        for name, row in plan.items()
        if not name.startswith(_TOLD_ELSEWHERE)
    }
    return {name.partition(".")[2] or name: row for name, row in rows.items() if len(set(row)) > 1}


def _trained(experiments: Sequence[Mapping[str, Any]]) -> list[int]:
    return [place for place, each in enumerate(experiments) if each["kind"] != "import"]


def _build_scores(experiments: Sequence[Mapping[str, Any]]) -> None:
    rows = score_rows(experiments)
    with card("Scores", "bits per byte of held-out text; lower is better, the best is marked"):
        with ui.element("div").classes("scroll"), ui.element("table").classes("table side-by-side"):
            _build_heads(experiments)
            with ui.element("tbody"):
                for row in rows:
                    _build_score_row(row)
                for name, tell in _FACTS.items():
                    with ui.element("tr"):
                        text("th", name).props('scope="row"')
                        for each in experiments:
                            text("td", tell(each), "number")
        if not all(row.is_same_text for row in rows):
            text(
                "p",
                "Where none is marked, each was measured on a held-out text of its own: they do not compare.",
                "hint",
            )
        if any(score.is_foreign for row in rows for score in row.scores):
            text("p", "Scores in grey were measured where the bundle came from, on other documents than here.", "hint")


def _build_score_row(row: ScoreRow) -> None:
    with ui.element("tr"):
        text("th", "new text" if row.source == NEW else row.source).props('scope="row"')
        for place, score in enumerate(row.scores):
            with ui.element("td").classes("number"):
                is_best = place in row.best
                text("span", score.words, "best" if is_best else "foreign" if score.is_foreign else "")
                if is_best:
                    text("span", "best", "unseen")


def _build_plans(told: tuple[Sequence[Mapping[str, Any]], Mapping[str, Sequence[Any]]]) -> None:
    experiments, plan = told
    trained = [experiments[place] for place in _trained(experiments)]
    rows = differing(experiments, plan)
    with card("What differs", "of their plans"):
        if len(trained) < len(experiments):
            text("p", "A bundle that came from outside has no plan here.", "hint")
        if not rows:
            if len(trained) > 1:
                text("p", "Nothing: they were asked for the very same.", "hint")
            return
        with ui.element("div").classes("scroll"), ui.element("table").classes("table side-by-side"):
            _build_heads(trained)
            with ui.element("tbody"):
                for name, row in rows.items():
                    with ui.element("tr"):
                        text("th", name.replace("_", " ").replace(".", ", ")).props('scope="row"')
                        for value in row:
                            text("td", value, "number")


def _build_heads(experiments: Sequence[Mapping[str, Any]]) -> None:
    with ui.element("thead"), ui.element("tr"):
        text("th", "")
        for each in experiments:
            with ui.element("th").classes("number").props('scope="col"'):
                link = text("a", each["name"], "name")
                attribute(link, "href", f"/ui/experiments/{each['experiment_id']}")
                attribute(link, "title", each["name"])
                with ui.element("div").classes("line tight right"):
                    text("span", f"#{each['experiment_id']}", "hint")
                    badge(each["state"], STATES.get(each["state"], ""))


def _build_missing() -> None:
    with empty("One of them is not there", "The table has all experiments.", "search_off").classes("high"):
        button("All experiments", lambda: ui.navigate.to("/experiments"), kind="primary")


_FACTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "data": data_words,
    "network": network_words,
    "tokens": lambda each: words.count(each["metrics"].get("tokens")),
    "took": lambda each: words.duration(each["metrics"].get("seconds")),
    "tokens per second": lambda each: words.count(each["metrics"].get("tokens_per_second")),
}
