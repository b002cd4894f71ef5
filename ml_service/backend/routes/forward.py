"""`POST /forward`: a prompt's continuation, whole or as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from ml_service.backend.answers import current_id, forward_json, forward_response, parameters_of, token_scores
from ml_service.backend.dependencies import CurrentModel, JsonRoute, Timeout
from ml_service.backend.errors import problem_of
from ml_service.backend.schemas import ForwardDelta, ForwardRequest, ForwardResponse, Problem
from ml_service.inference.engine import Completion, Work
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Delta, Echo, Finished

ERRORS = (400, 401, 403, 413, 415, 429, 503)
Events = AsyncGenerator[tuple[int, Echo | Delta | Finished], None]
router = APIRouter(route_class=JsonRoute, tags=["inference"])


@router.post(
    "/forward",
    response_model=ForwardResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **{status: {"model": Problem} for status in ERRORS},
    },
)
async def forward(body: ForwardRequest, model: CurrentModel, timeout_s: Timeout) -> Response:
    """Continue a text. `temperature: 0` is greedy; the same seed, prompt and parameters give the same text."""
    prompt = await model.engine.encode(body.text)
    work = Work([prompt], parameters_of(body), current_id(), body.n, timeout_s)
    if body.stream:
        return await _stream(model, work)
    completions = await model.engine.complete_all(work)
    return JSONResponse(forward_json(forward_response(model, completions, work.parameters)))


async def _stream(model: LiveModel, work: Work) -> Response:
    events = model.engine.stream_all(work)
    first = await anext(events)  # what is refused at the door gets its status, not a stream
    return EventSourceResponse(_events(model, work, first, events), headers={"Cache-Control": "no-store"})


async def _events(
    model: LiveModel, work: Work, first: tuple[int, Echo | Delta | Finished], events: Events
) -> AsyncGenerator[bytes, None]:
    completions = [Completion() for _ in range(work.n)]
    async with aclosing(events):
        try:
            async for index, event in chained(first, events):
                completions[index].add(event)
                if (delta := _delta(model, work, index, event)) is not None:
                    yield format_sse_event(data_str=delta.model_dump_json(exclude_none=True))
            answer = forward_response(model, completions, work.parameters)
            yield format_sse_event(event="done", data_str=json.dumps(forward_json(answer), ensure_ascii=False))
        except Exception as error:  # the status has been sent: the error becomes the stream's last event
            _, body, _ = problem_of(error)
            yield format_sse_event(event="error", data_str=Problem(**body).model_dump_json(exclude_none=True))


async def chained(first: tuple[int, Echo | Delta | Finished], events: Events) -> Events:
    """The first event, which was waited for, and those after it."""
    yield first
    async for event in events:
        yield event


def _delta(model: LiveModel, work: Work, index: int, event: Echo | Delta | Finished) -> ForwardDelta | None:
    assert not isinstance(event, Echo), "nobody asked for the prompt's log-probabilities"
    choices = [event.choice] if isinstance(event, Delta) else []
    scores = token_scores(model.engine, choices, work.parameters) or None
    if not event.text and not scores:
        return None
    return ForwardDelta(id=current_id(), index=index, delta=event.text, logprobs=scores)
