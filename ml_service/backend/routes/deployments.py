"""`POST /deploy/{experiment_id}`, `DELETE /deploy/shadow|canary`, `POST /rollback`, `GET /deployments`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from ml_service.backend.dependencies import CurrentActor, CurrentDatabase, CurrentReplica, IdempotencyKey, needs
from ml_service.backend.deployment_answers import deploy_response, overview
from ml_service.backend.deployment_schemas import DeploymentsResponse, DeployRequest, DeployResponse, RollbackRequest
from ml_service.backend.documented import problems
from ml_service.common.types import StorableText
from ml_service.data.deployments import Order

ExperimentId = Annotated[int, Path(ge=1, lt=2**63, description="The experiment's number.")]
Reason = Annotated[StorableText, Query(max_length=200, description="Kept in the audit log.")]
changes = APIRouter(tags=["learning"], dependencies=[needs("deploy")])
reading = APIRouter(tags=["learning"], dependencies=[needs()])


@changes.post("/deploy/{experiment_id}", responses=problems(404, 409, 507))
async def deploy(
    experiment_id: ExperimentId,
    replica: CurrentReplica,
    database: CurrentDatabase,
    actor: CurrentActor,
    body: Annotated[DeployRequest | None, Body()] = None,
    key: IdempotencyKey = None,
) -> DeployResponse:
    """Let an experiment's model answer: it is opened, proves itself and is swapped in with no request lost.

    Running requests end on the model that they began on. With `shadow` or `canary` it runs beside the active one.
    """
    body = body or DeployRequest()
    order = Order(experiment_id, actor, body.reason, body.strategy, body.share, key)
    return await asyncio.to_thread(deploy_response, database, replica, await replica.deploy(order))


@changes.delete("/deploy/shadow", responses=problems(404, 409, 507))
async def end_shadow(
    replica: CurrentReplica, database: CurrentDatabase, actor: CurrentActor, reason: Reason = ""
) -> DeployResponse:
    """Take the shadow away."""
    return await asyncio.to_thread(deploy_response, database, replica, await replica.end("shadow", actor, reason))


@changes.delete("/deploy/canary", responses=problems(404, 409, 507))
async def end_canary(
    replica: CurrentReplica, database: CurrentDatabase, actor: CurrentActor, reason: Reason = ""
) -> DeployResponse:
    """Take the canary away; the active model answers all again."""
    return await asyncio.to_thread(deploy_response, database, replica, await replica.end("canary", actor, reason))


@changes.post("/rollback", responses=problems(409, 507))
async def rollback(
    replica: CurrentReplica,
    database: CurrentDatabase,
    actor: CurrentActor,
    body: Annotated[RollbackRequest | None, Body()] = None,
    key: IdempotencyKey = None,
) -> DeployResponse:
    """Back to what answered before. Again is one further back, never to what has just been left."""
    back = await replica.roll_back(actor, (body or RollbackRequest()).reason, key)
    return await asyncio.to_thread(deploy_response, database, replica, back)


@reading.get("/deployments")
async def deployments(
    replica: CurrentReplica,
    database: CurrentDatabase,
    limit: Annotated[int, Query(ge=1, le=1000, description="Lines of the history.")] = 50,
) -> DeploymentsResponse:
    """What answers, what is tried beside it and how it does, who has loaded it, and how it came about."""
    return await asyncio.to_thread(overview, database, replica, limit)
