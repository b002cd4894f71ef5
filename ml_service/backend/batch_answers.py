"""Answers to a batch: many rows at a time, sent in their order as they are done; a bad row fails alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from lib.in_order import map_in_order
from ml_service.backend.answers import current_id
from ml_service.backend.batch_wishes import Wish, Wishes
from ml_service.backend.errors import problem_of
from ml_service.backend.schemas import BatchAnswer, TextRead
from ml_service.inference.engine import Engine
from ml_service.inference.patience import when_there_is_room

NDJSON = "application/x-ndjson"


def batch_response(request: Request, engine: Engine, wishes: Wishes, timeout_s: float | None) -> Response:
    """The answers as lines where those are asked for, else as one JSON object; a row at a time in either."""
    # Twice the slots: some rows wait in the engine while the first of the window is slow.
    answers = map_in_order(lambda wish: _answer(engine, wish, timeout_s), wishes, 2 * engine.slots)
    headers = {"Cache-Control": "no-store"}
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(_lines(answers), media_type=NDJSON, headers=headers)
    return StreamingResponse(_object(answers), media_type="application/json", headers=headers)


async def _answer(engine: Engine, wish: Wish, timeout_s: float | None) -> BatchAnswer:
    if wish.error is not None:
        return BatchAnswer(id=wish.id, error=wish.error)
    try:
        return await _continued(engine, wish, timeout_s)
    except Exception as error:  # the border of a row: it fails alone
        return BatchAnswer(id=wish.id, error=problem_of(error)[1]["detail"])


async def _continued(engine: Engine, wish: Wish, timeout_s: float | None) -> BatchAnswer:
    assert wish.parameters is not None, "only a wish with an error has none"
    parameters, text, read = wish.parameters, wish.text, None
    if wish.look is not None:
        text = (await when_there_is_room(wish.look, timeout_s)).text
        read = TextRead(text=text)
    prompt = await engine.encode(text)
    name = f"{current_id()}/{wish.id}"
    completion = await when_there_is_room(lambda: engine.complete(prompt, parameters, name, timeout_s), timeout_s)
    return BatchAnswer(id=wish.id, prediction=completion.text, finish_reason=completion.end.reason, read=read)


async def _lines(answers: AsyncGenerator[BatchAnswer, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers):
        async for answer in answers:
            yield _json(answer) + b"\n"


async def _object(answers: AsyncGenerator[BatchAnswer, None]) -> AsyncGenerator[bytes, None]:
    before = b'{"predictions":['
    async with aclosing(answers):
        async for answer in answers:
            yield before + _json(answer)
            before = b","
    yield b"]}"


def _json(answer: BatchAnswer) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode()
