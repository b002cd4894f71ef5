"""Learning over HTTP: `/retrain`, `/experiments`, `/metrics/{experiment_id}` whole or live, cancel, compare."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event

from ml_service.backend.dependencies import (
    CurrentActor,
    CurrentDatabase,
    CurrentLive,
    CurrentSettings,
    IdempotencyKey,
    JsonRoute,
    needs,
)
from ml_service.backend.documented import event_stream, problems
from ml_service.backend.experiment_schemas import (
    CancelResponse,
    Comparison,
    ExperimentAccount,
    ExperimentList,
    ExperimentSummary,
    PinRequest,
    RetrainRequest,
    RetrainResponse,
)
from ml_service.common.errors import BadRequest, ServiceError
from ml_service.common.types import Identifier, StorableText
from ml_service.data.database import Database
from ml_service.data.experiments import FINISHED, Experiments, Sort
from ml_service.data.series import Series
from ml_service.inference.handles import Live
from ml_service.pipeline import account
from ml_service.pipeline.retrain import Retrainer

_LOOK_EVERY_S = 1.0
_MOST_COMPARED = 20
router = APIRouter(tags=["learning"], dependencies=[needs()])
changes = APIRouter(tags=["learning"], dependencies=[needs("train")])
posts = APIRouter(route_class=JsonRoute, tags=["learning"], dependencies=[needs("train")])
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ExperimentId = Annotated[Identifier, Path(description="The experiment's number.")]
Ids = Annotated[str, Query(description="Numbers of experiments, with commas between.", examples=["3,7"])]


@posts.put("/retrain", status_code=202, responses=problems(404, 409, 507))
@posts.post("/retrain", status_code=202, responses=problems(404, 409, 507))
async def retrain(
    body: RetrainRequest,
    request: Request,
    database: CurrentDatabase,
    settings: CurrentSettings,
    actor: CurrentActor,
    key: IdempotencyKey = None,
) -> RetrainResponse:
    """Queue a training and answer at once. Follow it at `/metrics/{experiment_id}`."""
    asked = await asyncio.to_thread(Retrainer(database, settings.store).ask, body, actor, key)
    request.app.state.supervisor.wake()
    experiment = asked.experiment
    return RetrainResponse(experiment_id=experiment.id, name=experiment.name, state=experiment.state)


@router.get("/experiments")
async def experiments(
    database: CurrentDatabase,
    settings: CurrentSettings,
    state: Annotated[list[State] | None, Query()] = None,
    name: Annotated[StorableText | None, Query(max_length=120, description="A part of the name.")] = None,
    kind: Literal["train", "retrain", "import"] | None = None,
    sort: Sort = "id",
    order: Literal["asc", "desc"] = "desc",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> ExperimentList:
    """Experiments that match, newest first unless asked otherwise."""

    def find() -> tuple[list[dict[str, Any]], int]:
        experiments, wanted = Experiments(database, settings.store), (tuple(state or ()), name, kind)
        found = experiments.find(*wanted, sort, order == "desc", limit, offset)
        return account.summaries_of(database, found), experiments.count(*wanted)

    rows, total = await asyncio.to_thread(find)
    return ExperimentList(experiments=[ExperimentSummary.model_validate(row) for row in rows], total=total)


@router.get("/experiments/compare", responses=problems(404))
async def compare(ids: Ids, database: CurrentDatabase, settings: CurrentSettings) -> Comparison:
    """Several experiments side by side: where their plans differ, all their scores."""
    try:
        numbers = [int(part) for part in ids.split(",")]
    except ValueError:
        raise BadRequest(f"ids: {ids[:50]!r} is not numbers with commas between", [("ids", "not numbers")]) from None
    if len(numbers) > _MOST_COMPARED or not all(0 < number < 2**63 for number in numbers):
        raise BadRequest(f"ids: up to {_MOST_COMPARED} numbers from 1 on", [("ids", "out of range")])
    return Comparison.model_validate(await asyncio.to_thread(account.compare, database, settings.store, numbers))


@changes.post("/experiments/{experiment_id}/cancel", status_code=202, responses=problems(404, 409, 507))
async def cancel(
    experiment_id: ExperimentId, database: CurrentDatabase, settings: CurrentSettings, actor: CurrentActor
) -> CancelResponse:
    """Stop it. A running one ends with what it has learned by now, exported and scored, and can be deployed."""
    state = await asyncio.to_thread(Retrainer(database, settings.store).cancel, experiment_id, actor)
    return CancelResponse(experiment_id=experiment_id, state=state)


@posts.post("/experiments/{experiment_id}/pin", status_code=204, responses=problems(404, 507))
async def pin(
    experiment_id: ExperimentId,
    body: PinRequest,
    database: CurrentDatabase,
    settings: CurrentSettings,
    actor: CurrentActor,
) -> None:
    """Keep its files whatever retention says, or let them go again."""
    await asyncio.to_thread(Experiments(database, settings.store).pin, experiment_id, body.pinned, actor)


@router.get(
    "/metrics/{experiment_id}",
    response_model=ExperimentAccount,
    responses={200: {"content": event_stream(ExperimentSummary)}, **problems(404)},
)
async def metrics(
    experiment_id: ExperimentId,
    request: Request,
    live: CurrentLive,
    database: CurrentDatabase,
    settings: CurrentSettings,
    max_points: Annotated[int, Query(ge=2, le=100_000, description="Of each curve.")] = 1000,
    from_now: Annotated[bool, Query(description="Of a live stream: without the points that there are.")] = False,
) -> Response:
    """State, progress, curves, scores, lineage. With `Accept: text/event-stream` live, until it ends.

    Events: `state` (an ExperimentSummary, whenever it changes), `points` (key → columns of what is new), `done`.
    """
    if "text/event-stream" in request.headers.get("accept", ""):
        experiments = Experiments(database, settings.store)
        await asyncio.to_thread(experiments.get, experiment_id)  # what is refused gets its status, not a stream
        events = _follow(database, experiments, live, experiment_id, from_now)
        return EventSourceResponse(events, headers={"Cache-Control": "no-store"})
    whole = await asyncio.to_thread(account.account_of, database, settings.store, experiment_id, max_points)
    return JSONResponse(ExperimentAccount.model_validate(whole).model_dump(mode="json"))


async def _follow(
    database: Database, experiments: Experiments, live: Live, experiment_id: int, from_now: bool = False
) -> AsyncGenerator[bytes, None]:
    series = Series(database)
    told, last_steps = "", await asyncio.to_thread(series.last_steps, experiment_id) if from_now else {}

    def look() -> tuple[str, dict[str, Any], bool]:
        experiment = experiments.get(experiment_id)
        (summary,) = account.summaries_of(database, [experiment])
        state = ExperimentSummary.model_validate(summary).model_dump_json()
        # Once more the last step, key by key: its scores come later than its loss.
        curves = series.read(experiment_id, max(last_steps.values(), default=0) - 1)
        new = {key: [p for p in curve if p.step > last_steps.get(key, -1)] for key, curve in curves.items()}
        last_steps.update({key: curve[-1].step for key, curve in curves.items()})
        told_of = {key: account.series_of(points) for key, points in new.items() if points}
        return state, told_of, experiment.state in FINISHED

    while not live.is_draining:  # an end of the service ends the stream, and whoever watches asks again
        try:
            state, points, is_over = await asyncio.to_thread(look)
        except ServiceError:  # the database may be away for a moment; the client need not know
            await asyncio.sleep(_LOOK_EVERY_S)
            continue
        if points:
            yield format_sse_event(event="points", data_str=json.dumps(points))
        if state != told:
            told = state
            yield format_sse_event(event="state", data_str=state)
        if is_over:
            yield format_sse_event(event="done", data_str=state)
            return
        await asyncio.sleep(_LOOK_EVERY_S)
