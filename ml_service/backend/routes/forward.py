"""`POST /forward`: a prompt's continuation, whole or as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from ml_service.backend.answers import current_id, forward_json, forward_response, token_scores
from ml_service.backend.dependencies import JsonRoute, Timeout, current_model
from ml_service.backend.errors import problem_of
from ml_service.backend.event_batches import Batches, chained
from ml_service.backend.schemas import ForwardDelta, ForwardRequest, ForwardResponse, Problem
from ml_service.inference.engine import Completion, Engine, Told, Work
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Delta, Echo, Finished

ERRORS = (400, 401, 403, 413, 415, 429, 503)
router = APIRouter(route_class=JsonRoute, tags=["inference"])


@router.post(
    "/forward",
    response_model=ForwardResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": ForwardDelta.model_json_schema()}}},
        **{status: {"model": Problem} for status in ERRORS},
    },
)
async def forward(body: ForwardRequest, request: Request, timeout_s: Timeout = None) -> Response:
    """Continue a text. `temperature: 0` is greedy; the same seed, prompt and parameters give the same text."""
    model = current_model(request)
    prompt = await model.engine.encode(body.text)
    work = Work([prompt], body, current_id(), body.n, timeout_s)
    if body.stream:
        return await _stream(model, work)
    completions = await model.engine.complete_all(work)
    return JSONResponse(forward_json(forward_response(model, completions, work.parameters)))


async def _stream(model: LiveModel, work: Work) -> Response:
    batches = model.engine.stream_all(work)
    first = await anext(batches)  # what is refused at the door gets its status, not a stream
    return EventSourceResponse(_events(model, work, first, batches), headers={"Cache-Control": "no-store"})


async def _events(model: LiveModel, work: Work, first: list[Told], batches: Batches) -> AsyncGenerator[bytes, None]:
    completions = [Completion() for _ in range(work.n)]
    head = f'data: {{"id":{json.dumps(current_id())},"index":'
    async with aclosing(batches):
        try:
            async for batch in chained(first, batches):
                for index, event in batch:
                    completions[index].add(event)
                if told := b"".join(_delta(model.engine, work, head, index, event) for index, event in batch):
                    yield told
            answer = forward_response(model, completions, work.parameters)
            yield format_sse_event(event="done", data_str=json.dumps(forward_json(answer), ensure_ascii=False))
        except Exception as error:  # the status has been sent: the error becomes the stream's last event
            _, body, _ = problem_of(error)
            yield format_sse_event(event="error", data_str=Problem(**body).model_dump_json(exclude_none=True))


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
