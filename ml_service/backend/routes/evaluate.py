"""`/evaluate` and `/evaluations`: a model is judged on somebody's own rows, any experiment's, and what came of it."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError

from ml_service.backend.dependencies import CurrentActor, CurrentDatabase, CurrentSettings, needs
from ml_service.backend.documented import problems, schema_of
from ml_service.backend.errors import bad_request_of
from ml_service.backend.evaluation_schemas import (
    EvaluateRequest,
    EvaluateResponse,
    EvaluationList,
    EvaluationOut,
    EvaluationQuestion,
    EvaluationState,
    evaluation_out,
)
from ml_service.backend.forms import JSON, MULTIPART, ReceivedForm, received_form
from ml_service.backend.judgements import DEFAULT_WAIT_S, Judgements
from ml_service.backend.options import form_properties, options_of
from ml_service.common.errors import BadRequest, NotFound
from ml_service.data.evaluations import Evaluations, Standing
from ml_service.data.staging import ReceivedFile, write_texts
from ml_service.pipeline.evaluating import Evaluator

UPLOAD_PATH = "/evaluate"
_LONGEST_WAIT_S = 600.0
_FIELDS = tuple(EvaluationQuestion.model_fields)
_FORM = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": ".csv, .jsonl or .parquet of rows, or .zip with one of these and the images that it names.",
        },
        **form_properties(EvaluationQuestion),
    },
    "required": ["file"],
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": schema_of(EvaluateRequest)}, MULTIPART: {"schema": _FORM}},
    }
}
router = APIRouter(tags=["learning"], dependencies=[needs("infer")])
EvaluationId = Annotated[int, Path(ge=1, lt=2**63, description="The evaluation's number.")]


@router.post(
    UPLOAD_PATH,
    openapi_extra=_BODY,
    response_model=EvaluateResponse,
    responses={202: {"model": EvaluateResponse}, **problems(403, 404, 409, 507)},
)
async def evaluate(
    request: Request,
    settings: CurrentSettings,
    database: CurrentDatabase,
    actor: CurrentActor,
    prefer: Annotated[str, Header(description="`wait=10` waits so many seconds for it, `respond-async` not.")] = "",
) -> Response:
    """Judge a model on texts, on prompts and targets, on labels, or the reading of images.

    What takes longer than half a minute, or is larger than a setting says, goes on as a job: the answer is then 202,
    and `GET /evaluations/{id}` tells how it stands. The same question is answered once, and from then on at once.
    """
    async with received_form(request, settings.store, ("file",), _FIELDS) as form:
        question, file = await asyncio.to_thread(_asked, form, request)
        standing, is_new = await judgements_of(request).ask(
            question.experiment_id, question, file, actor, _wait_s(prefer)
        )
    body = await asyncio.to_thread(_told, Evaluator(database, settings), standing)
    status = 200 if standing.is_over else 202
    answer = EvaluateResponse(**body, cached=not is_new).model_dump(mode="json")
    return JSONResponse(answer, status, {"Location": f"/evaluations/{standing.evaluation.id}"})


@router.get("/evaluations")
async def evaluations(
    database: CurrentDatabase,
    settings: CurrentSettings,
    experiment_id: Annotated[int | None, Query(ge=1, lt=2**63, description="Only those of this experiment.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="The most to tell of.")] = 100,
) -> EvaluationList:
    """What was asked, newest first; each without its report."""

    def found() -> list[dict[str, Any]]:
        evaluator = Evaluator(database, settings)
        told = (_told(evaluator, each) for each in Evaluations(database).latest(experiment_id, limit))
        return [each | {"report": None} for each in told]

    return EvaluationList.model_validate({"evaluations": await asyncio.to_thread(found)})


@router.get("/evaluations/{evaluation_id}", responses=problems(404))
async def evaluation(
    evaluation_id: EvaluationId, database: CurrentDatabase, settings: CurrentSettings
) -> EvaluationOut:
    """How an evaluation stands, and what it found."""
    standing = await asyncio.to_thread(Evaluations(database).standing, evaluation_id)
    told = await asyncio.to_thread(_told, Evaluator(database, settings), standing)
    return EvaluationOut.model_validate(told)


@router.get(
    "/evaluations/{evaluation_id}/rows.csv",
    response_class=FileResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems(404)},
)
async def rows(evaluation_id: EvaluationId, database: CurrentDatabase, settings: CurrentSettings) -> FileResponse:
    """Every row with what was found of it, or why it could not be judged."""
    standing = await asyncio.to_thread(Evaluations(database).standing, evaluation_id)
    path = Evaluator(database, settings).rows_file(standing)
    if path is None:
        raise NotFound(f"there is no table of evaluation {evaluation_id}: it is not over, or was not kept so long")
    return FileResponse(path, media_type="text/csv", filename=f"evaluation-{evaluation_id}.csv")


@router.post("/evaluations/{evaluation_id}/cancel", status_code=202, responses=problems(404, 409, 507))
async def cancel(
    evaluation_id: EvaluationId, database: CurrentDatabase, settings: CurrentSettings, actor: CurrentActor
) -> EvaluationState:
    """Stop it: nothing of it is kept."""
    state = await asyncio.to_thread(Evaluator(database, settings).cancel, evaluation_id, actor)
    return EvaluationState(id=evaluation_id, state=state)


def judgements_of(request: Request) -> Judgements:
    """Who has models judged."""
    judgements = request.app.state.judgements
    assert isinstance(judgements, Judgements)
    return judgements


def _asked(form: ReceivedForm, request: Request) -> tuple[EvaluationQuestion, ReceivedFile]:
    """The question and its rows. Raises BadRequest."""
    if form.json_body is None:
        return options_of(EvaluationQuestion, form.texts, request.headers), form.one_file("file")
    try:
        wish = EvaluateRequest.model_validate_json(form.json_body)
    except ValidationError as error:
        raise bad_request_of(error) from error
    return EvaluationQuestion(**wish.model_dump(exclude={"texts"})), write_texts(form.folder, wish.texts)


def _told(evaluator: Evaluator, standing: Standing) -> dict[str, Any]:
    return evaluation_out(standing, evaluator.rows_file(standing) is not None)


def _wait_s(prefer: str) -> float:
    """RFC 7240: how long the client would rather wait."""
    if "respond-async" in prefer:
        return 0.0
    if (wanted := re.search(r"\bwait=(\d{1,6})\b", prefer)) is not None:
        return min(float(wanted[1]), _LONGEST_WAIT_S)
    if "wait" in prefer:
        raise BadRequest("Prefer: say `wait=10` for ten seconds", [("Prefer", "not understood")])
    return DEFAULT_WAIT_S
