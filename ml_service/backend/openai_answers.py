"""Answers of the engine in OpenAI's shapes, whole and in chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ml_service.backend.answers import current_id, total_usage
from ml_service.inference.engine import Engine
from ml_service.inference.live import LiveModel
from ml_service.inference.sampler import Choice, TokenLogprob
from ml_service.inference.sequence import Delta, Echo, Finished
from ml_service.inference.work import Completion, Work

Event = Echo | Delta | Finished
Scored = tuple[int, Choice | None]
"""A token and its log-probabilities; the first token of a prompt has none."""
_FINISH = {"stop": "stop", "length": "length", "timeout": "length", "cancelled": "stop"}
DONE = b"data: [DONE]\n\n"


def chunk_bytes(chunk: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


@dataclass
class _Envelope:
    """What every answer and chunk of a request begins with."""

    prefix: str
    object: str
    model: LiveModel

    def __post_init__(self) -> None:
        self._head = {
            "id": f"{self.prefix}-{current_id()}",
            "object": self.object,
            "created": int(time.time()),
            "model": self.model.manifest.experiment,
            "system_fingerprint": self.model.manifest.commit,
        }

    def put(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """With these choices."""
        return {**self._head, "choices": choices} | ({"usage": usage} if usage is not None else {})


def usage_of(completions: Sequence[Completion], n: int) -> dict[str, Any]:
    """What the request cost."""
    usage = total_usage(completions, n)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class CompletionWriter:
    """Writes `text_completion` objects."""

    def __init__(self, model: LiveModel, work: Work, *, echo: bool) -> None:
        self._engine, self._work, self._echo = model.engine, work, echo
        self._envelope = _Envelope("cmpl", "text_completion", model)
        self._scores = [_LegacyLogprobs(model.engine) for _ in range(len(work.prompts) * work.n)]

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The answer."""
        choices = []
        for index, completion in enumerate(completions):
            scored = [*self._prompt(index, completion.echo.choices), *((c.token_id, c) for c in completion.choices)]
            text = self._beginning(index) + completion.text
            choices.append(self._choice(index, text, scored, completion.end.reason))
        return self._envelope.put(choices, usage_of(completions, self._work.n))

    def first_chunks(self) -> Iterable[dict[str, Any]]:
        """What can be told before anything is generated."""
        if self._echo and not self._work.echoes:
            for index in range(len(self._scores)):
                yield self._envelope.put([self._choice(index, self._beginning(index), [], None)])

    def chunk(self, index: int, event: Event) -> dict[str, Any] | None:
        """An event, where there is anything to tell."""
        if isinstance(event, Echo):
            scored: list[Scored] = self._prompt(index, event.choices)
            return self._envelope.put([self._choice(index, self._beginning(index), scored, None)])
        reason = event.reason if isinstance(event, Finished) else None
        choices = event.choices if isinstance(event, Delta) else ()
        scored = [(choice.token_id, choice) for choice in choices]
        if not event.text and reason is None and self._work.parameters.logprobs is None:
            return None
        return self._envelope.put([self._choice(index, event.text, scored, reason)])

    def usage_chunk(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._envelope.put([], usage_of(completions, self._work.n))

    def _choice(self, index: int, text: str, scored: list[Scored], reason: str | None) -> dict[str, Any]:
        wants_scores = self._work.parameters.logprobs is not None
        return {
            "index": index,
            "text": text,
            "logprobs": self._scores[index].write(scored) if wants_scores else None,
            "finish_reason": reason and _FINISH[reason],
        }

    def _beginning(self, index: int) -> str:
        return self._engine.decode(self._work.prompts[index // self._work.n]) if self._echo else ""

    def _prompt(self, index: int, echo: Sequence[Choice]) -> list[Scored]:
        if not self._work.echoes:
            return []
        prompt = self._work.prompts[index // self._work.n]
        return list(zip(prompt, (None, *echo), strict=True))


class ChatWriter:
    """Writes `chat.completion` objects and their chunks."""

    def __init__(self, model: LiveModel, work: Work) -> None:
        self._engine, self._work = model.engine, work
        self._answer = _Envelope("chatcmpl", "chat.completion", model)
        self._piece = _Envelope("chatcmpl", "chat.completion.chunk", model)

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The answer."""
        choices = []
        for index, completion in enumerate(completions):
            message = {"role": "assistant", "content": completion.text, "refusal": None}
            scores = self._logprobs(completion.choices)
            reason = _FINISH[completion.end.reason]
            choices.append({"index": index, "message": message, "logprobs": scores, "finish_reason": reason})
        return self._answer.put(choices, usage_of(completions, self._work.n))

    def first_chunks(self) -> Iterable[dict[str, Any]]:
        """Who speaks."""
        for index in range(self._work.n):
            yield self._chunk(index, {"role": "assistant", "content": ""}, [], None)

    def chunk(self, index: int, event: Event) -> dict[str, Any] | None:
        """An event, where there is anything to tell."""
        assert not isinstance(event, Echo), "a chat does not echo"
        reason = event.reason if isinstance(event, Finished) else None
        choices = event.choices if isinstance(event, Delta) else ()
        if not event.text and reason is None and self._work.parameters.logprobs is None:
            return None
        return self._chunk(index, {"content": event.text} if event.text else {}, choices, reason)

    def usage_chunk(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return self._piece.put([], usage_of(completions, self._work.n))

    def _chunk(
        self, index: int, delta: dict[str, Any], choices: Sequence[Choice], reason: str | None
    ) -> dict[str, Any]:
        scores = self._logprobs(choices)
        finish = reason and _FINISH[reason]
        return self._piece.put([{"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}])

    def _logprobs(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        if self._work.parameters.logprobs is None:
            return None
        content = []
        for choice in choices:
            assert choice.logprob is not None, "log-probabilities were asked for"
            top = [self._score(other) for other in choice.alternatives]
            content.append({**self._score(choice.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _score(self, score: TokenLogprob) -> dict[str, Any]:
        token = self._engine.token_bytes(score.token_id)
        return {"token": token.decode("utf-8", "replace"), "logprob": score.logprob, "bytes": list(token)}


class _LegacyLogprobs:
    """The log-probabilities of a completion: lists side by side, and where each token begins in the text."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._text = engine.pieces()
        self._length = 0

    def write(self, scored: Sequence[Scored]) -> dict[str, Any]:
        """The next tokens."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token_id, choice in scored:
            own = choice.logprob if choice is not None else None
            top = {self._token(other.token_id): other.logprob for other in choice.alternatives} if choice else None
            row = (self._token(token_id), own.logprob if own else None, top, self._length)
            for column, value in zip(lists.values(), row, strict=True):
                column.append(value)
            self._length += len(self._text.push(token_id))
        return lists

    def _token(self, token_id: int) -> str:
        token = self._engine.token_bytes(token_id)
        try:
            return token.decode("utf-8")
        except UnicodeDecodeError:  # half a character, written as OpenAI does
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
