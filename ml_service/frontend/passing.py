"""What a browser sends to the service, or takes home from it, passes through here piece by piece and is never kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Literal

import aiohttp
from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ml_service.frontend.api import Api, ApiError
from ml_service.frontend.visit import KEY_COOKIE, Service

_SENT = ("content-type", "content-length", "prefer")
_ASKED = ("range",)
_TAKEN = ("content-type", "content-length", "content-range", "content-disposition")
_AWAY = 502


def passages(service: Callable[[], Service]) -> APIRouter:
    """Routes for the page's own scripts and links; they need neither memory nor disk, however large a file is."""
    router = APIRouter()

    @router.post("/send/{what}")
    async def send(request: Request, what: Literal["add_data", "evaluate"]) -> dict[str, int | str]:
        """A form; the service's answer in an envelope, for browsers call every refusal an error of the page."""
        if "x-page" not in request.headers:  # a form of another site cannot set it
            raise HTTPException(403)
        asked = _api(service(), request).passed("POST", f"/{what}", _of(request.headers, _SENT), _pieces(request))
        try:
            async with asked as response:
                return {"status": response.status, "body": await response.text()}
        except ApiError as error:
            return {"status": 0, "body": json.dumps({"detail": str(error)})}

    @router.get("/rows/{evaluation_id}.csv")
    async def rows(request: Request, evaluation_id: Annotated[int, Path(ge=1)]) -> Response:
        """The table of an evaluation, to be kept as a file."""
        return _Passed(_api(service(), request), f"/evaluations/{evaluation_id}/rows.csv", request)

    return router


class _Passed(Response):
    """What the service answers to a GET."""

    def __init__(self, api: Api, path: str, request: Request) -> None:
        super().__init__()
        self._api, self._path = api, path
        self._asked = _of(request.headers, _ASKED) | {"Accept-Encoding": "identity"}  # its length is passed on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._api.passed("GET", self._path, self._asked) as response:
                taken = _of(response.headers, _TAKEN)
                answer = StreamingResponse(response.content.iter_any(), response.status, taken)
                await answer(scope, receive, send)
        except ApiError as error:
            await JSONResponse({"detail": str(error)}, _AWAY)(scope, receive, send)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; where the browser leaves, the service is left as well."""
    try:
        async for piece in request.stream():
            if piece:
                yield piece
    except ClientDisconnect as error:
        raise aiohttp.ClientConnectionError("the browser has left") from error


def _of(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _api(service: Service, request: Request) -> Api:
    return Api(service.session, service.backend, request.cookies.get(KEY_COOKIE))
