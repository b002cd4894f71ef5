"""`POST /forward_batch`: many prompts in one request, answered in their order; a bad row fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from lib.in_order import map_in_order
from ml_service.backend.answers import current_id
from ml_service.backend.dependencies import JsonRoute, Timeout, current_model
from ml_service.backend.errors import bad_request_of, problem_of
from ml_service.backend.routes.forward import ERRORS
from ml_service.backend.schemas import BatchAnswer, BatchRow, ForwardBatchRequest, ForwardBatchResponse, Problem
from ml_service.common.errors import Overloaded
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine

NDJSON = "application/x-ndjson"
_PARAMETERS = set(GenerationParameters.model_fields)
_LONGEST_WAIT_S = 1.0
router = APIRouter(route_class=JsonRoute, tags=["inference"])


@router.post(
    "/forward_batch",
    response_model=ForwardBatchResponse,
    responses={
        200: {"content": {NDJSON: {"schema": {"type": "string"}}}},
        **{status: {"model": Problem} for status in ERRORS},
    },
)
async def forward_batch(body: ForwardBatchRequest, request: Request, timeout_s: Timeout = None) -> Response:
    """Continue many texts. With `Accept: application/x-ndjson` a row is sent when it and those before are done."""
    answers = _answers(current_model(request).engine, body, timeout_s)
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(_lines(answers), media_type=NDJSON, headers={"Cache-Control": "no-store"})
    async with aclosing(answers):
        predictions = [answer async for answer in answers]
    return JSONResponse(ForwardBatchResponse(predictions=predictions).model_dump(exclude_none=True))


def _answers(engine: Engine, body: ForwardBatchRequest, timeout_s: float | None) -> AsyncGenerator[BatchAnswer, None]:
    shared = body.model_dump(include=_PARAMETERS, exclude_unset=True)

    async def answer(numbered: tuple[int, Any]) -> BatchAnswer:
        number, row = numbered
        name = str(row["id"]) if isinstance(row, dict) and row.get("id") is not None else str(number)
        try:
            return await _answer(engine, name, row, shared, timeout_s)
        except ValidationError as error:
            return BatchAnswer(id=name, error=str(bad_request_of(error)))
        except Exception as error:  # the border of a row: it fails alone
            return BatchAnswer(id=name, error=problem_of(error)[1]["detail"])

    # Twice the slots: some rows wait in the engine while the first of the window is slow.
    return map_in_order(answer, enumerate(body.texts), 2 * engine.slots)


async def _answer(engine: Engine, name: str, row: Any, shared: dict[str, Any], timeout_s: float | None) -> BatchAnswer:
    if isinstance(row, str):
        row = {"text": row}
    own = BatchRow.model_validate(row)
    parameters = GenerationParameters(**(shared | own.model_dump(include=_PARAMETERS, exclude_unset=True)))
    prompt = await engine.encode(own.text)
    while True:
        try:
            completion = await engine.complete(prompt, parameters, f"{current_id()}/{name}", timeout_s)
            return BatchAnswer(id=name, prediction=completion.text, finish_reason=completion.end.reason)
        except Overloaded as full:  # a batch has time: it goes on when there is a place
            await asyncio.sleep(min(full.retry_after_s, _LONGEST_WAIT_S))


async def _lines(answers: AsyncGenerator[BatchAnswer, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers):
        async for answer in answers:
            yield answer.model_dump_json(exclude_none=True).encode() + b"\n"
