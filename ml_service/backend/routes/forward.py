"""`POST /forward`: a prompt's continuation, whole or as a stream; the prompt is a text, a picture of one, or both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from ml_service.backend.dependencies import CurrentSettings, FormRoute, JsonBesideForm, Timeout, needs
from ml_service.backend.documented import event_stream, problems
from ml_service.backend.forms import MULTIPART, ReceivedForm, received_form
from ml_service.backend.forwarding import continued
from ml_service.backend.images import check_rest, picture_of_form, picture_of_json
from ml_service.backend.options import form_properties, options_of
from ml_service.backend.schemas import ForwardDelta, ForwardOptions, ForwardRequest, ForwardResponse, Problem, ReadOut

PATH = "/forward"
ERRORS = problems(404, 409, 507)
_TEXT_FIELDS = frozenset({"text", *ForwardOptions.model_fields})
_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "image": {
            "type": "string",
            "format": "binary",
            "description": "PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF. What is read in it, in reading order, "
            "is the prompt, put behind `text`.",
        },
        "text": {"type": "string", "description": "Can be left out where there is an image."},
        **form_properties(ForwardOptions),
    },
    "description": "Each option can also be a header, `X-Max-New-Tokens: 64`; a field goes before it.",
}
_BODY = {
    "requestBody": {
        "content": {MULTIPART: {"schema": _FORM, "example": {"text": "def read_lines(path):", "max_new_tokens": 48}}}
    }
}
router = APIRouter(route_class=JsonBesideForm, tags=["inference"], dependencies=[needs("infer")])
forms = APIRouter(route_class=FormRoute, tags=["inference"], dependencies=[needs("infer")])


async def image_form(request: Request, settings: CurrentSettings) -> AsyncIterator[ReceivedForm]:
    """A form with a picture and options, until the answer has been sent."""
    limit = settings.max_body_bytes
    async with received_form(request, settings.store, {"image"}, _TEXT_FIELDS, max_field_bytes=limit) as form:
        yield form


@router.post(
    PATH,
    response_model=ForwardResponse,
    openapi_extra=_BODY,
    responses={
        200: {"content": event_stream(ForwardDelta, ReadOut, ForwardResponse, Problem)},
        **ERRORS,
    },
)
async def forward(body: ForwardRequest, request: Request, timeout_s: Timeout = None) -> Response:
    """Continue a text. `temperature: 0` is greedy; the same seed, prompt and parameters give the same text."""
    await check_rest(request, body.image or "")
    return await continued(request, body, body.text, picture_of_json(body.image), timeout_s)


@forms.post(PATH, include_in_schema=False)
async def forward_form(
    form: Annotated[ReceivedForm, Depends(image_form)], request: Request, timeout_s: Timeout = None
) -> Response:
    """The same of a form."""
    wish = options_of(ForwardOptions, form.texts, request.headers)
    text, picture = await picture_of_form(request, form)
    return await continued(request, wish, text, picture, timeout_s)
