"""Who sees a request's work end: it notes what that cost and makes its spans by OpenTelemetry's GenAI conventions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ml_service.common.types import GenerationParameters
from ml_service.inference.sequence import Finished
from ml_service.inference.sequence import Sequence as Answer
from ml_service.inference.work import Work
from ml_service.utils.costs import Costs, costs
from ml_service.utils.logs import SERVICE, request_id
from ml_service.utils.tracing import tracer, wall_ns

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ml_service.utils.tracer import Tracer

_MOST_SPANS = 16
"""Answers of a request that get spans of their own."""
_LEFT = (GeneratorExit, asyncio.CancelledError)
"""Nobody waits for the answer any more."""
Decode = Callable[[Sequence[int]], str]


class Witness:
    """Of one `Work`."""

    def __init__(self, model: str, answers_per_prompt: int, noted: Costs | None, generation: Generation | None) -> None:
        self._model, self._answers_per_prompt = model, answers_per_prompt
        self._noted, self._generation = noted, generation

    @classmethod
    def of(cls, model: str, work: Work, decode: Decode) -> Witness | None:
        """None where nobody wants to know: that is all that a request pays then."""
        noted, making = costs.get(), tracer()
        generation = None
        # Rows of a batch and windows of a judged text are works by the thousand: they are noted and get no spans.
        if making is not None and making.is_recording() and work.request_id == request_id.get():
            generation = Generation(making, model, work, decode)
        return cls(model, work.n, noted, generation) if noted is not None or generation is not None else None

    def ended(self, index: int, answer: Answer, finished: Finished) -> None:
        """An answer is over."""
        if self._noted is not None:
            self._note(self._noted, index, finished)
        if self._generation is not None:
            self._generation.ended.append((answer, finished))

    def close(self, failure: BaseException | None) -> None:
        """All are, or nobody waits for them any more."""
        if self._generation is not None:
            self._generation.close(failure)

    def _note(self, noted: Costs, index: int, finished: Finished) -> None:
        usage, timings = finished.usage, finished.timings
        noted.model = self._model
        if index % self._answers_per_prompt == 0:  # its other answers read it no second time
            noted.prompt_tokens += usage.prompt_tokens
        noted.completion_tokens += usage.completion_tokens
        noted.finish_reasons.add(finished.reason)
        noted.queue_ms = max(noted.queue_ms, timings.queue_ms)
        noted.prefill_ms = max(noted.prefill_ms, timings.prefill_ms)
        noted.decode_ms = max(noted.decode_ms, timings.decode_ms)


class Generation:
    """A GenAI span and, below it, what the engine's own clock says: queue, prefill and decode of each answer."""

    def __init__(self, making: Tracer, model: str, work: Work, decode: Decode) -> None:
        self._making, self._work, self._decode = making, work, decode
        self.ended: list[tuple[Answer, Finished]] = []
        attributes = _asked(model, work)
        self._span: Span = making.begin(f"{work.operation} {model}", "internal", attributes=attributes)

    def close(self, failure: BaseException | None) -> None:
        """End it with all that is known."""
        span, making = self._span, self._making
        if isinstance(failure, _LEFT):
            span.set_attribute("gen_ai.response.finish_reasons", ["cancelled"])
        elif failure is not None:
            span.set_attribute("error.type", type(failure).__name__)
        for index, (answer, _) in enumerate(self.ended[:_MOST_SPANS]):
            self._add_phases(index, answer)
        if self.ended:
            span.set_attributes(self._told())
            first = min((a.first_token_at for a, _ in self.ended if a.first_token_at), default=None)
            if first is not None:
                span.add_event("gen_ai.first_token", timestamp=wall_ns(first))
        if making.with_texts:
            span.set_attributes(self._texts())
        span.end()

    def _add_phases(self, index: int, answer: Answer) -> None:
        moments = (answer.submitted_at, answer.admitted_at, answer.first_token_at, answer.last_token_at)
        reached = [wall_ns(moment) for moment in moments if moment]
        which = {"gen_ai.choice.index": index} if len(self.ended) > 1 else {}
        tokens = {
            "prefill": {"gen_ai.usage.input_tokens": len(answer.prompt_ids) - answer.reused},
            "decode": {"gen_ai.usage.output_tokens": answer.generated},
        }
        for name, start, end in zip(("queue", "prefill", "decode"), reached, reached[1:], strict=False):
            self._making.add(name, self._span, start, end, which | tokens.get(name, {}))

    def _told(self) -> dict[str, Any]:
        answers = [answer for answer, _ in self.ended]
        firsts = answers[:: self._work.n] if len(answers) == len(self._work.prompts) * self._work.n else answers
        return {
            "gen_ai.response.id": self._work.request_id,
            "gen_ai.response.finish_reasons": [finished.reason for _, finished in self.ended],
            "gen_ai.usage.input_tokens": sum(len(answer.prompt_ids) for answer in firsts),
            "gen_ai.usage.output_tokens": sum(answer.generated for answer in answers),
            "gen_ai.usage.cache_read.input_tokens": sum(answer.reused for answer in firsts),
            "gen_ai.response.time_to_first_chunk": self._first_token_s(),
        }

    def _first_token_s(self) -> float:
        times = [a.first_token_at - a.submitted_at for a, _ in self.ended if a.first_token_at]
        return round(min(times), 6) if times else 0.0

    def _texts(self) -> dict[str, str]:
        asked = [_message("user", self._decode(prompt)) for prompt in self._work.prompts]
        told = [
            _message("assistant", self._decode(answer.generated_ids)) | {"finish_reason": finished.reason}
            for answer, finished in self.ended
        ]
        return {
            "gen_ai.input.messages": json.dumps(asked, ensure_ascii=False),
            "gen_ai.output.messages": json.dumps(told, ensure_ascii=False),
        }


def _asked(model: str, work: Work) -> dict[str, Any]:
    """What is no text of a client's: neither prompts nor stop strings nor schemas."""
    asked: GenerationParameters = work.parameters
    attributes = {
        "gen_ai.operation.name": work.operation,
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.request.max_tokens": asked.max_new_tokens,
        "gen_ai.request.temperature": asked.temperature,
        "gen_ai.request.top_p": asked.top_p,
        "gen_ai.request.top_k": asked.top_k,
        "gen_ai.request.seed": asked.seed,
        "gen_ai.request.choice.count": work.n if work.n != 1 else None,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}
