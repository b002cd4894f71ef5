"""`POST /forward_batch`: many prompts, as JSON or as a file, answered in their order; a bad row fails alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from ml_service.backend.batch_answers import NDJSON, batch_response
from ml_service.backend.batch_wishes import Wishes, shared_of, wishes_in, wishes_of
from ml_service.backend.dependencies import (
    CurrentImageReader,
    CurrentSettings,
    FormRoute,
    JsonBesideForm,
    Timeout,
    guest_model,
    needs,
    open_model,
)
from ml_service.backend.forms import MULTIPART, received_form
from ml_service.backend.options import form_properties, options_of
from ml_service.backend.routes.forward import ERRORS
from ml_service.backend.schemas import BatchOptions, ForwardBatchRequest, ForwardBatchResponse

PATH = "/forward_batch"
_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": ".jsonl (each line a text or a row, as in JSON), .csv (column `text`; `id` and parameters "
            "where there are such columns), .txt (each line a prompt) or .zip of images, whose names become the ids.",
        },
        **form_properties(BatchOptions),
    },
    "required": ["file"],
    "description": "Each parameter can also be a header, `X-Max-New-Tokens: 64`; a field goes before it.",
}
router = APIRouter(route_class=JsonBesideForm, tags=["inference"], dependencies=[needs("infer")])
forms = APIRouter(route_class=FormRoute, tags=["inference"], dependencies=[needs("infer")])


@dataclass(frozen=True)
class FileBatch:
    """A form's file."""

    wishes: Wishes
    model: str


async def batch_of_form(
    request: Request, settings: CurrentSettings, reader: CurrentImageReader
) -> AsyncIterator[FileBatch]:
    """The rows of a form's file, which lies on disk until the answer has been sent, whatever happens."""
    limit, fields = settings.max_body_bytes, frozenset(BatchOptions.model_fields)
    async with received_form(request, settings.store, {"file"}, fields, max_field_bytes=limit) as form:
        options = options_of(BatchOptions, form.texts, request.headers)
        file = form.one_file("file")
        async with wishes_in(file, shared_of(options), reader, settings.max_image_bytes) as wishes:
            yield FileBatch(wishes, options.model)


@router.post(
    PATH,
    response_model=ForwardBatchResponse,
    openapi_extra={"requestBody": {"content": {MULTIPART: {"schema": _FORM}}}},
    responses={
        200: {"content": {NDJSON: {"schema": {"type": "string"}}}},
        **ERRORS,
    },
)
async def forward_batch(body: ForwardBatchRequest, request: Request, timeout_s: Timeout = None) -> Response:
    """Continue many texts. With `Accept: application/x-ndjson` a row is sent when it and those before are done."""
    model = open_model(request, body.model) or await guest_model(request, body.model)
    return batch_response(request, model.engine, wishes_of(body.texts, shared_of(body)), timeout_s)


@forms.post(PATH, include_in_schema=False)
async def forward_batch_file(
    batch: Annotated[FileBatch, Depends(batch_of_form)], request: Request, timeout_s: Timeout = None
) -> Response:
    """The same of a file."""
    model = open_model(request, batch.model) or await guest_model(request, batch.model)
    return batch_response(request, model.engine, batch.wishes, timeout_s)
