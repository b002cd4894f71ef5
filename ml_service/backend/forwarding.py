"""Answers to `/forward`, whole or as a stream, of a text, a picture or both."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from ml_service.backend.answers import current_id, forward_json, forward_response, token_scores
from ml_service.backend.deadlines import deadline_of
from ml_service.backend.dependencies import guest_model, open_model
from ml_service.backend.errors import problem_of
from ml_service.backend.event_batches import Batches, chained
from ml_service.backend.images import Load, Seen, look
from ml_service.backend.schemas import ForwardOptions, Problem, ReadOut
from ml_service.common.errors import BadRequest
from ml_service.inference.engine import Engine
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Delta, Echo, Finished
from ml_service.inference.work import Completion, Told, Work


async def continued(
    request: Request, wish: ForwardOptions, text: str, picture: Load | None, timeout_s: float | None
) -> Response:
    """The answer, or the beginning of its stream. Raises what the engine and the reader of pictures raise."""
    if wish.return_image and picture is None:
        raise BadRequest("return_image: there is no image to give back", [("return_image", "no image came")])
    model = open_model(request, wish.model) or await guest_model(request, wish.model)
    seen = None
    if picture is not None:
        seen = await look(request, picture, await deadline_of(request, timeout_s))
        timeout_s = seen.deadline.left_s
    prompt = await model.engine.encode(text if seen is None else seen.behind(text))
    work = Work([prompt], wish, current_id(), wish.n, timeout_s)
    if wish.stream:
        return await _stream(model, work, wish, seen)
    return JSONResponse(await _whole(model, work, wish, seen, await model.engine.complete_all(work)))


async def _whole(
    model: LiveModel, work: Work, wish: ForwardOptions, seen: Seen | None, completions: list[Completion]
) -> dict[str, object]:
    answer = forward_json(forward_response(model, completions, work.parameters))
    if seen is not None:
        answer["read"] = ReadOut.of(seen.reading).model_dump()
        if wish.return_image:
            answer["image"] = await seen.drawn(completions[0].text)
    return answer


async def _stream(model: LiveModel, work: Work, wish: ForwardOptions, seen: Seen | None) -> Response:
    batches = model.engine.stream_all(work)
    first = await anext(batches)  # what is refused at the door gets its status, not a stream
    events = _events(model, work, wish, seen, first, batches)
    return EventSourceResponse(events, headers={"Cache-Control": "no-store"})


async def _events(
    model: LiveModel, work: Work, wish: ForwardOptions, seen: Seen | None, first: list[Told], batches: Batches
) -> AsyncGenerator[bytes, None]:
    completions = [Completion() for _ in range(work.n)]
    head = f'data: {{"id":{json.dumps(current_id())},"index":'
    async with aclosing(batches):
        try:
            if seen is not None:
                read = ReadOut.of(seen.reading).model_dump()
                yield _event("read", {"id": current_id(), "read": read})
            async for batch in chained(first, batches):
                for index, event in batch:
                    completions[index].add(event)
                if told := b"".join(_delta(model.engine, work, head, index, event) for index, event in batch):
                    yield told
            yield _event("done", await _whole(model, work, wish, seen, completions))
        except Exception as error:  # the status has been sent: the error becomes the stream's last event
            _, body, _ = problem_of(error)
            yield format_sse_event(event="error", data_str=Problem(**body).model_dump_json(exclude_none=True))


def _event(name: str, data: dict[str, object]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False))


def _delta(engine: Engine, work: Work, head: str, index: int, event: Echo | Delta | Finished) -> bytes:
    """A `ForwardDelta`, written by hand: there is one for each token of each stream."""
    assert not isinstance(event, Echo), "nobody asked for the prompt's log-probabilities"
    choices = event.choices if isinstance(event, Delta) else ()
    scores = token_scores(engine, choices, work.parameters)
    if not event.text and not scores:
        return b""
    body = f'{head}{index},"delta":{json.dumps(event.text, ensure_ascii=False)}'
    if scores:
        body += f',"logprobs":{json.dumps([score.model_dump() for score in scores], ensure_ascii=False)}'
    return f"{body}}}\n\n".encode()
