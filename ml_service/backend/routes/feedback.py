"""`/feedback`: what somebody thought of an answer, how much of it there is, and how all of it becomes data."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from ml_service.backend.dependencies import CurrentActor, CurrentDatabase, JsonRoute, needs
from ml_service.backend.documented import problems
from ml_service.common.types import StorableText
from ml_service.data import audit
from ml_service.data.database import Database
from ml_service.data.feedback import FEEDBACK, FeedbackStore
from ml_service.data.jobs import Jobs

router = APIRouter(tags=["learning"], dependencies=[needs()])
posts = APIRouter(route_class=JsonRoute, tags=["learning"], dependencies=[needs("infer")])
exports = APIRouter(tags=["learning"], dependencies=[needs("data")])
_LONGEST_TEXT = 100_000


class FeedbackRequest(BaseModel):
    """A verdict on an answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "request_id": "4f1c07d4a9",
                    "accepted": False,
                    "prompt": "def add(a, b):",
                    "correction": " return a + b",
                }
            ]
        },
    )
    request_id: str = Field(
        min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$", description="The answer's `id` or `X-Request-ID`."
    )
    accepted: bool = Field(description="Whether the answer was good.")
    correction: StorableText | None = Field(
        None, max_length=_LONGEST_TEXT, description="What should have followed the prompt; it becomes data."
    )
    prompt: StorableText | None = Field(
        None, max_length=_LONGEST_TEXT, description="The prompt; needed where the request log keeps no texts."
    )


class FeedbackResponse(BaseModel):
    """It is kept."""

    id: int
    verdict: Literal["accepted", "corrected", "rejected"]


class FeedbackStanding(BaseModel):
    """How much feedback there is."""

    kept: int = Field(description="Verdicts that were ever given.")
    lessons: int = Field(description="Texts that `POST /feedback/export` would make data of now.")


class ExportResponse(BaseModel):
    """The worker makes a data batch of so many lessons; `GET /datasets` shows it."""

    lessons: int


@posts.post("/feedback", status_code=201, responses=problems(507))
async def feedback(
    body: FeedbackRequest, request: Request, database: CurrentDatabase, actor: CurrentActor
) -> FeedbackResponse:
    """Say what an answer was worth, and what it should have been."""
    store = FeedbackStore(database)
    kept, verdict = await asyncio.to_thread(
        store.add, body.request_id, body.accepted, body.correction, body.prompt, actor
    )
    request.app.state.telemetry.feedback.labels(verdict).inc()
    return FeedbackResponse(id=kept.id, verdict=verdict)


@router.get("/feedback")
async def standing(database: CurrentDatabase) -> FeedbackStanding:
    """How much of it there is, and how much can become data."""
    found = await asyncio.to_thread(FeedbackStore(database).standing)
    return FeedbackStanding(kept=found.kept, lessons=found.lessons)


@exports.post("/feedback/export", status_code=202, responses=problems(507))
async def export(request: Request, database: CurrentDatabase, actor: CurrentActor) -> ExportResponse:
    """Let all feedback that is not data yet become a data batch: corrections, and accepted answers that were logged."""
    lessons = await asyncio.to_thread(_queue_export, database, actor)
    request.app.state.supervisor.wake()
    return ExportResponse(lessons=lessons)


def _queue_export(database: Database, actor: str) -> int:
    lessons = len(FeedbackStore(database).lessons())
    if lessons:
        with database.writing() as session:
            Jobs(database).queue(session, FEEDBACK, payload={"actor": actor}, dedup_key=FEEDBACK)
            audit.record(database, session, actor, "feedback export", "feedback", {}, {"lessons": lessons})
    return lessons
