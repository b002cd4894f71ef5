"""Health: alive means moving forward, ready means that a model answers."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ml_service.backend.dependencies import CurrentLive, CurrentReplica, CurrentSettings, needs
from ml_service.backend.schemas import HealthResponse, RecentResponse
from ml_service.common.errors import Unavailable
from ml_service.utils.recent import EVERY_S, Recent

router = APIRouter(tags=["operations"])
figures = APIRouter(tags=["operations"], dependencies=[needs()])


@router.get("/health", response_model_exclude_none=True)
async def health() -> HealthResponse:
    """The process answers."""
    return HealthResponse(status="ok")


@router.get("/health/live", response_model_exclude_none=True, responses={503: {"model": HealthResponse}})
async def live(live: CurrentLive, settings: CurrentSettings, response: Response) -> HealthResponse:
    """The engine moves forward; restart the process where it does not."""
    age_s = live.last_step_age_s()
    if age_s <= settings.stuck_after_s:
        return HealthResponse(status="ok")
    response.status_code = 503
    return HealthResponse(status="stuck", detail=f"the engine has work and has not moved for {age_s:.0f} s")


@router.get("/health/ready", response_model_exclude_none=True, responses={503: {"model": HealthResponse}})
async def ready(live: CurrentLive, replica: CurrentReplica, response: Response) -> HealthResponse:
    """A model answers; send requests only while this is 200. `detail` says where it is not the one it should be."""
    try:
        _ = live.current
    except Unavailable as reason:
        response.status_code = 503
        return HealthResponse(status="unavailable", detail=str(reason))
    return HealthResponse(status="ok", detail=replica.trouble)


@figures.get("/health/recent")
async def recent(request: Request) -> RecentResponse:
    """The last quarter of an hour of this process: rates, quantiles and loads, a point every five seconds."""
    kept = request.app.state.recent
    assert isinstance(kept, Recent)
    return RecentResponse(every_s=EVERY_S, series=kept.columns())
