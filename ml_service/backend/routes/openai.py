"""OpenAI's routes: `/v1/models`, `/v1/completions`, `/v1/chat/completions`; its clients work unchanged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse
from pydantic import ValidationError

from ml_service.backend.answers import current_id
from ml_service.backend.chat_messages import told
from ml_service.backend.deadlines import deadline_of
from ml_service.backend.dependencies import CurrentLive, JsonRoute, Timeout, guest_model, needs, open_model
from ml_service.backend.documented import event_stream, problems
from ml_service.backend.errors import bad_request_of, openai_error, problem_of
from ml_service.backend.event_batches import Batches, chained
from ml_service.backend.openai_answers import DONE, ChatWriter, CompletionWriter, chunk_bytes
from ml_service.backend.openai_schemas import ChatRequest, CompletionRequest, OpenAIRequest
from ml_service.inference.engine import Engine
from ml_service.inference.live import LiveModel
from ml_service.inference.work import Completion, Told, Work

CHAT_PATH = "/v1/chat/completions"
router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[needs()])
posts = APIRouter(route_class=JsonRoute, prefix="/v1", tags=["openai"], dependencies=[needs("infer")])
Writer = CompletionWriter | ChatWriter
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": event_stream()},
    **problems(404, 409),
}


@router.get("/models")
async def models(live: CurrentLive) -> dict[str, Any]:
    """The names under which a model answers."""
    return {"object": "list", "data": [_card(model, name) for name, model in live.models.items()]}


@router.get("/models/{name:path}", responses=problems(404))
async def one_model(name: str, live: CurrentLive) -> dict[str, Any]:
    """A model by one of its names."""
    return _card(live.named(name), name)


@posts.post("/completions", response_model=None, responses=_ANSWERS)
async def completions(body: CompletionRequest, request: Request, timeout_s: Timeout = None) -> Response:
    """Continue prompts: texts or token ids. `max_tokens` 0 with `echo` and `logprobs` scores them."""
    model = open_model(request, body.model) or await guest_model(request, body.model)
    prompts = await _prompts(model.engine, body)
    try:
        parameters = body.parameters(body.max_tokens, body.logprobs)
    except ValidationError as error:
        raise bad_request_of(error) from error
    echoes = body.echo and body.logprobs is not None
    work = Work(prompts, parameters, current_id(), body.n, timeout_s, echoes)
    return await _answer(model, work, body, CompletionWriter(model, work, echo=body.echo))


@posts.post("/chat/completions", response_model=None, responses=_ANSWERS)
async def chat(body: ChatRequest, request: Request, timeout_s: Timeout = None) -> Response:
    """Answer messages, told through the bundle's chat template or, where it has none, as `User:` and `Assistant:`."""
    model = open_model(request, body.model) or await guest_model(request, body.model)
    deadline = await deadline_of(request, timeout_s)
    text = model.chat.render(await told(request, body.messages, deadline))
    prompt = await model.engine.encode(text, knows_special=model.chat.knows_special)
    room = model.engine.architecture.context_length - len(prompt)
    wanted = body.max_completion_tokens or body.max_tokens or room
    try:
        parameters = body.parameters(wanted, (body.top_logprobs or 0) if body.logprobs else None, **_format(body))
        parameters = parameters.model_copy(update={"stop": [*parameters.stop, *model.chat.stop]})
    except ValidationError as error:
        raise bad_request_of(error) from error
    work = Work([prompt], parameters, current_id(), body.n, deadline.left_s, operation="chat")
    return await _answer(model, work, body, ChatWriter(model, work))


async def _answer(model: LiveModel, work: Work, body: OpenAIRequest, writer: Writer) -> Response:
    if not body.stream:
        return JSONResponse(writer.whole(await model.engine.complete_all(work)))
    batches = model.engine.stream_all(work)
    first = await anext(batches)  # what is refused at the door gets its status, not a stream
    stream = _chunks(work, body, writer, first, batches)
    return EventSourceResponse(stream, headers={"Cache-Control": "no-store"})


async def _chunks(
    work: Work, body: OpenAIRequest, writer: Writer, first: list[Told], batches: Batches
) -> AsyncGenerator[bytes, None]:
    done = [Completion() for _ in range(len(work.prompts) * work.n)]
    async with aclosing(batches):
        try:
            for chunk in writer.first_chunks():
                yield chunk_bytes(chunk)
            async for batch in chained(first, batches):
                for index, event in batch:
                    done[index].add(event)
                told = (writer.chunk(index, event) for index, event in batch)
                if chunks := b"".join(chunk_bytes(chunk) for chunk in told if chunk is not None):
                    yield chunks
            if body.wants_usage:
                yield chunk_bytes(writer.usage_chunk(done))
            yield DONE
        except Exception as error:  # the status has been sent: the error becomes the stream's last event
            status, problem, _ = problem_of(error)
            yield chunk_bytes(openai_error(status, problem))


async def _prompts(engine: Engine, body: CompletionRequest) -> list[list[int]]:
    """All prompts as tokens; an empty list is one empty prompt."""
    match body.prompt:
        case str() as text:
            return [await engine.encode(text)]
        case [int(), *_] as ids:
            return [engine.check(ids)]  # type: ignore[arg-type]
        case []:
            return [engine.check([])]
        case several:
            return [await engine.encode(p) if isinstance(p, str) else engine.check(p) for p in several]  # type: ignore[arg-type]


def _format(body: ChatRequest) -> dict[str, Any]:
    schema = body.response_format.schema_to_follow if body.response_format is not None else None
    return {} if schema is None else {"json_schema": schema}


def _card(model: LiveModel, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": model.created, "owned_by": "ml_service"}
