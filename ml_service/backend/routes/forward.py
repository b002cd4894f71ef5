"""`POST /forward`: a prompt's continuation, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from ml_service.backend.dependencies import CurrentModel, JsonRoute
from ml_service.backend.errors import problem_of
from ml_service.backend.schemas import (
    AnsweringModel,
    ForwardDelta,
    ForwardRequest,
    ForwardResponse,
    Problem,
    TimingsOut,
    TokenScore,
    TokenScores,
    UsageOut,
)
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.live import LiveModel
from ml_service.inference.sequence import Delta, Finished
from ml_service.utils.logs import request_id

_ERRORS = (400, 401, 403, 413, 415, 429, 503)
router = APIRouter(route_class=JsonRoute, tags=["inference"])


@router.post(
    "/forward",
    response_model=ForwardResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **{status: {"model": Problem} for status in _ERRORS},
    },
)
async def forward(body: ForwardRequest, model: CurrentModel) -> Response:
    """Continue a text. `temperature: 0` is greedy; the same seed, prompt and parameters give the same text."""
    parameters = _parameters_of(body)
    prompt_ids = await model.engine.encode(body.text)
    if body.stream:
        return await _stream(model, prompt_ids, parameters)
    deltas, finished = await model.engine.complete(prompt_ids, parameters, _id())
    return JSONResponse(_answer(model, deltas, finished, parameters).model_dump())


async def _stream(model: LiveModel, prompt_ids: list[int], parameters: GenerationParameters) -> Response:
    events = model.engine.stream(prompt_ids, parameters, _id())
    first = await anext(events)  # what is refused at the door gets its status, not a stream
    return EventSourceResponse(_events(model, first, events, parameters), headers={"Cache-Control": "no-store"})


async def _events(
    model: LiveModel,
    first: Delta | Finished,
    events: AsyncGenerator[Delta | Finished, None],
    parameters: GenerationParameters,
) -> AsyncGenerator[bytes, None]:
    deltas: list[Delta] = []
    event: Delta | Finished = first
    async with aclosing(events):
        try:
            while isinstance(event, Delta):
                deltas.append(event)
                scores = _scores(model.engine, [event], parameters)
                if event.text or scores:
                    yield _sse(ForwardDelta(id=_id(), delta=event.text, logprobs=scores))
                event = await anext(events)
            if event.text:
                yield _sse(ForwardDelta(id=_id(), delta=event.text))
            answer = _answer(model, deltas, event, parameters)
            yield format_sse_event(event="done", data_str=answer.model_dump_json())
        except Exception as error:  # the status has been sent: the error becomes the stream's last event
            _, body, _ = problem_of(error)
            yield format_sse_event(event="error", data_str=Problem(**body).model_dump_json(exclude_none=True))


def _answer(
    model: LiveModel, deltas: Sequence[Delta], finished: Finished, parameters: GenerationParameters
) -> ForwardResponse:
    return ForwardResponse(
        id=_id(),
        model=answering_model(model),
        prediction="".join(delta.text for delta in deltas) + finished.text,
        finish_reason=finished.reason,
        logprobs=_scores(model.engine, deltas, parameters),
        usage=UsageOut(**asdict(finished.usage)),
        timings=TimingsOut(**asdict(finished.timings)),
    )


def answering_model(model: LiveModel) -> AnsweringModel:
    """Who answered, for the answer."""
    manifest = model.manifest
    return AnsweringModel(
        experiment_id=manifest.experiment_id,
        experiment=manifest.experiment,
        commit=manifest.commit,
        precision=manifest.precision,
        generation=model.generation,
    )


def _scores(engine: Engine, deltas: Sequence[Delta], parameters: GenerationParameters) -> list[TokenScores] | None:
    if parameters.logprobs is None:
        return None
    scores = []
    for choice in (delta.choice for delta in deltas):
        assert choice.logprob is not None, "log-probabilities were asked for"
        alternatives = [
            TokenScore(token_id=a.token_id, token=engine.token_text(a.token_id), logprob=a.logprob)
            for a in choice.alternatives
        ]
        scores.append(
            TokenScores(
                token_id=choice.token_id,
                token=engine.token_text(choice.token_id),
                logprob=choice.logprob.logprob,
                alternatives=alternatives,
            )
        )
    return scores


def _parameters_of(body: ForwardRequest) -> GenerationParameters:
    return GenerationParameters(**body.model_dump(include=set(GenerationParameters.model_fields)))


def _sse(delta: ForwardDelta) -> bytes:
    return format_sse_event(data_str=delta.model_dump_json(exclude_none=True))


def _id() -> str:
    return request_id.get() or "none"
