"""`/add_data` and `/datasets`: text comes in, versions of the data set come of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from ml_service.backend.data_schemas import (
    EXAMPLE,
    AddDataRequest,
    AddDataResponse,
    DatasetDetail,
    DatasetList,
    DatasetOut,
)
from ml_service.backend.dependencies import (
    CurrentActor,
    CurrentDatabase,
    CurrentSettings,
    IdempotencyKey,
    needs,
)
from ml_service.backend.documented import problems, schema_of
from ml_service.backend.forms import JSON, MULTIPART
from ml_service.backend.intakes import Intakes
from ml_service.backend.uploads import receive_upload
from ml_service.data.datasets import Datasets

UPLOAD_PATH = "/add_data"
_FORM = {
    "type": "object",
    "properties": {
        "files": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": ".txt .md .py .jsonl .csv .parquet, or .zip of these; rows have a column `text`.",
        },
        "name": {"type": "string"},
        "licence": {"type": "string"},
        "tags": {"type": "string", "description": "With commas between them; the field may come more than once."},
    },
    "required": ["files"],
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": schema_of(AddDataRequest),
                "example": EXAMPLE,
            },
            MULTIPART: {"schema": _FORM},
        },
    }
}
router = APIRouter(tags=["learning"], dependencies=[needs("data")])


@router.put(UPLOAD_PATH, openapi_extra=_BODY, responses=problems(409, 507))
@router.post(UPLOAD_PATH, openapi_extra=_BODY, responses=problems(409, 507))
async def add_data(
    request: Request, settings: CurrentSettings, actor: CurrentActor, key: IdempotencyKey = None
) -> AddDataResponse:
    """Add texts or files to the data set: validated, without duplicates and near duplicates, as a new version.

    The answer comes when it is done. A client who leaves after the last byte loses only the answer.
    """
    incoming = await receive_upload(request, settings.store)
    return AddDataResponse.of(await _intakes(request).add(incoming, actor, key))


@router.get("/datasets")
async def datasets(
    database: CurrentDatabase,
    settings: CurrentSettings,
    limit: Annotated[int, Query(ge=1, le=1000, description="The most versions to tell of.")] = 100,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="Only versions below this one.")] = None,
) -> DatasetList:
    """The versions of the data set, newest first."""
    found = await asyncio.to_thread(Datasets(database, settings.store).history, limit, before)
    return DatasetList(datasets=[DatasetOut.of(added) for added in found])


@router.get("/datasets/{version}", responses=problems(404))
async def dataset(
    version: Annotated[int, Path(ge=1, lt=2**63, description="The version's number.")],
    database: CurrentDatabase,
    settings: CurrentSettings,
) -> DatasetDetail:
    """A version: what it is made of, where that came from, what was left out of the upload that made it."""
    return await asyncio.to_thread(_detail, Datasets(database, settings.store), version)


def _detail(datasets: Datasets, version: int) -> DatasetDetail:
    return DatasetDetail.of_manifest(datasets.added(version), datasets.manifest(version))


def _intakes(request: Request) -> Intakes:
    intakes = request.app.state.intakes
    assert isinstance(intakes, Intakes)
    return intakes
