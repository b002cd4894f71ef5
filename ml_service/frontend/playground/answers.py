"""One who answers on the playground: the stream as it comes, how it ended, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.api import ApiError
from ml_service.frontend.parts import text
from ml_service.frontend.playground.feedback import FeedbackBar, Judged
from ml_service.frontend.playground.models import ACTIVE, ModelChoice, Models
from ml_service.frontend.playground.token_text import TokenText
from ml_service.frontend.playground.tokens import Piece, Trail
from ml_service.frontend.visit import Visit

_FLUSH_EVERY_S = 0.05
_FINISHED = {
    "stop": "Ended by itself, or at a stop string.",
    "length": "Reached the most tokens that were allowed.",
    "timeout": "Its time was up.",
    "cancelled": "Cancelled.",
}
_STOPPED = "Stopped."
OnRead = Callable[[Mapping[str, Any]], None]


class AnswerPane:
    """A card; `answer` fills it, and whoever cancels that leaves the service."""

    def __init__(self, visit: Visit, models: Models, label: str) -> None:
        self._visit, self._label = visit, label
        self._texts: list[TokenText] = []
        self._trails: list[Trail] = []
        self._shown: list[str] = []
        self._waiting: dict[int, list[Piece]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._request_id = ""
        with ui.element("section").classes("card answer").props(f'aria-label="{label}"') as self.card:
            with ui.element("div").classes("card-head answer-head"):
                text("h2", label)
                self.choice = ModelChoice(models, "Model")
            self._place = ui.element("div").classes("stack answer-texts")
            with self._place:
                text("p", "The answer comes here.", "hint")
            self._status = text("p", "", "answer-status hint").props('role="status"')
            self._facts = ui.element("div").classes("answer-facts")

    async def answer(self, body: Mapping[str, Any], prompt: str, on_read: OnRead) -> None:
        """Ask, and show what comes. `prompt` is without what is read in a picture, which comes to `on_read` too."""
        self._begin(int(body.get("n", 1)))
        asked = {**body, **({"model": self.choice.name} if self.choice.name != ACTIVE else {})}
        try:
            async with aclosing(self._visit.api.events("/forward", asked)) as events:
                async for name, said in events:
                    if name == "message":
                        self._take(said)
                    elif name == "read":
                        prompt = behind(prompt, said["read"]["text"])
                        on_read(said["read"])
                    elif name == "done":
                        self._finish(said, prompt)
                        return
                    elif name == "error":
                        raise ApiError(said["detail"], said["status"], said)
            raise ApiError("The service ended the answer before it was whole.")
        except ApiError as error:
            self._flush_rest()
            self._fail(error)
            raise
        except asyncio.CancelledError:
            self._flush_rest()
            self._say(_STOPPED)
            self._ask_for_feedback(prompt)
            raise
        finally:
            for shown in self._texts:
                shown.end()

    def _begin(self, answers: int) -> None:
        self._trails = [Trail() for _ in range(answers)]
        self._shown = [""] * answers
        self._waiting.clear()
        self._request_id = ""
        self._facts.clear()
        self._place.clear()
        self._texts = []
        with self._place:
            for number in range(answers):
                with ui.element("div").classes("one-answer"):
                    name = f"{self._label} {number + 1}" if answers > 1 else self._label
                    if answers > 1:
                        text("h3", name)
                    self._texts.append(TokenText(name))
        for shown in self._texts:
            shown.begin()
        self._say("Waiting for the first token …")

    def _take(self, said: Mapping[str, Any]) -> None:
        self._request_id = said["id"]
        index = said["index"]
        self._keep(index, self._trails[index].add(said["delta"], said.get("logprobs") or ()))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_EVERY_S, self._flush)

    def _keep(self, index: int, pieces: list[Piece]) -> None:
        if pieces:
            self._waiting.setdefault(index, []).extend(pieces)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._place.is_deleted:
            return
        for index, pieces in self._waiting.items():
            self._shown[index] += "".join(piece.text for piece in pieces)
            self._texts[index].add([piece.as_sent() for piece in pieces])
        if self._waiting:
            self._say("Answering …")
        self._waiting.clear()

    def _flush_rest(self) -> None:
        for index, trail in enumerate(self._trails):
            self._keep(index, trail.end())
        self._flush()

    def _finish(self, said: Mapping[str, Any], prompt: str) -> None:
        self._flush_rest()
        self._request_id = said["id"]
        answers = said.get("answers") or [said]
        for index, answer in enumerate(answers):
            assert self._shown[index] == answer["prediction"], "the stream said something else than the whole answer"
        reasons = list(dict.fromkeys(_FINISHED.get(answer["finish_reason"], "") for answer in answers))
        self._say(" ".join(reasons))
        with self._facts:
            _facts(said)
        self._ask_for_feedback(prompt)

    def _ask_for_feedback(self, prompt: str) -> None:
        if not self._request_id or self._place.is_deleted:
            return
        is_one_of_several = len(self._texts) > 1
        for shown, answer in zip(self._texts, self._shown, strict=True):
            place = shown.parent_slot.parent if is_one_of_several and shown.parent_slot else self._facts
            with place:
                FeedbackBar(self._visit, Judged(self._request_id, prompt, answer, is_one_of_several))

    def _fail(self, error: ApiError) -> None:
        if self._place.is_deleted:
            return
        self._say("")
        with self._place, ui.element("div").classes("answer-error").props('role="alert"'):
            ui.icon("error_outline")
            text("span", f"A key is wanted. {error.about_key}" if error.wants_key else str(error))

    def _say(self, sentence: str) -> None:
        if not self._status.is_deleted:
            self._status.set_text(sentence)


def behind(text_before: str, read: str) -> str:
    """The prompt with what was read in a picture, put together as the service does."""
    if not text_before or text_before[-1].isspace():
        return text_before + read
    return f"{text_before}\n{read}"


def _facts(said: Mapping[str, Any]) -> None:
    model, usage, timings = said["model"], said["usage"], said["timings"]
    number = f"#{model['experiment_id']} " if model["experiment_id"] is not None else ""
    told = {
        "Model": f"{number}{model['experiment']}, {model['precision']}, generation {model['generation']}",
        "Queue": _milliseconds(timings["queue_ms"]),
        "First token": _milliseconds(timings["queue_ms"] + timings["prefill_ms"]),
        "Speed": f"{words.number(timings['tokens_per_second'])} tokens/s",
        "Prompt": f"{words.number(usage['prompt_tokens'])} tokens, {words.number(usage['cached_tokens'])} cached",
        "Answer": f"{words.number(usage['completion_tokens'])} tokens",
    }
    with ui.element("dl").classes("facts"):
        for name, value in told.items():
            with ui.element("div"):
                text("dt", name)
                text("dd", value)


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else words.duration(value / 1000)
