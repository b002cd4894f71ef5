"""The one table from our errors to HTTP, answered as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from lib.files import NO_ROOM
from ml_service.common import errors
from ml_service.common.types import unicode_of
from ml_service.utils.logs import EventLogger, request_id

log = EventLogger("errors")
PROBLEM = "application/problem+json"
STATUS_OF: Mapping[type[errors.ServiceError], tuple[int, str]] = {
    errors.BadRequest: (400, "bad request"),
    errors.Unauthenticated: (401, "auth"),
    errors.Forbidden: (403, "auth"),
    errors.ModelFailure: (403, "model_failure"),
    errors.NotFound: (404, "not found"),
    errors.Conflict: (409, "conflict"),
    errors.TooLarge: (413, "too large"),
    errors.UnsupportedMediaType: (415, "unsupported media type"),
    errors.Overloaded: (429, "overloaded"),
    errors.RateSpent: (429, "rate limited"),
    errors.Unavailable: (503, "unavailable"),
    errors.InsufficientStorage: (507, "insufficient storage"),
    errors.BundleRefused: (409, "bundle refused"),
    errors.DoesNotFit: (409, "bundle refused"),
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_TITLES = {400: "bad request", 404: "not found", 405: "method not allowed", 413: "too large"}
_DETAILS = {
    404: "there is no such route; /docs lists them",
    405: "the route does not take this method; /docs lists them",
    413: "the request body is larger than this service takes",
}


def problem(status: int, title: str, detail: str, fields: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """The body of an error answer."""
    body: dict[str, Any] = {
        "type": f"urn:ml-service:{title.replace(' ', '-').replace('_', '-')}",
        "title": title,
        "status": status,
        "detail": unicode_of(detail),
        "request_id": request_id.get(),
    }
    if fields:
        body["errors"] = [{"loc": where, "msg": what} for where, what in fields]
    return body


def problem_of(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, body, headers) of any error; what is not ours is a bug, logged with its trace and told as nothing."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        error = errors.InsufficientStorage("the disk is full")
    if isinstance(error, errors.ServiceError):
        status, title = STATUS_OF[type(error)]
        fields = error.fields if isinstance(error, errors.BadRequest) else None
        return status, problem(status, title, str(error), fields), _headers_of(error)
    log.exception("request.failed", error=type(error).__name__)
    return 500, problem(500, "internal error", "an error of the service; its log has it under this request id"), {}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app with a problem."""
    app.add_exception_handler(errors.ServiceError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)


def error_response(path: str, status: int, body: dict[str, Any], headers: Mapping[str, str]) -> JSONResponse:
    """A problem, in OpenAI's shape under `/v1`."""
    if path.startswith("/v1/"):
        return JSONResponse(openai_error(status, body), status, dict(headers))
    return JSONResponse(body, status, dict(headers), PROBLEM)


def openai_error(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """A problem as OpenAI's clients know it."""
    fields = body.get("errors") or [{"loc": None}]
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = body["title"].replace(" ", "_")
    return {"error": {"message": body["detail"], "type": kind, "param": fields[0]["loc"], "code": code}}


def bad_request_of(error: ValidationError) -> errors.BadRequest:
    """What pydantic found, as an error of ours."""
    fields = [(_where(("body", *item["loc"])), _what(item)) for item in error.errors()]
    return errors.BadRequest(_sentence(fields), fields)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return error_response(request.url.path, *problem_of(error))


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = [(_where(item["loc"]), _what(item)) for item in error.errors()]
    return error_response(request.url.path, 400, problem(400, "bad request", _sentence(fields), fields), {})


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    title = _TITLES.get(status, HTTPStatus(status).phrase.lower())
    body = problem(status, title, _DETAILS.get(status, str(error.detail)))
    headers = {"Allow": _allowed(request)} if status == 405 else error.headers or {}
    return error_response(request.url.path, status, body, headers)


def _allowed(request: Request) -> str:
    """All methods of the path (RFC 9110); the framework names those of the first route that has it."""
    routes, scope = request.app.routes, dict(request.scope)
    return ", ".join(m for m in _METHODS if any(r.matches(scope | {"method": m})[0] is Match.FULL for r in routes))


def _sentence(fields: list[tuple[str, str]]) -> str:
    return "; ".join(f"{where}: {what}" for where, what in fields[:5])


def _headers_of(error: errors.ServiceError) -> dict[str, str]:
    if isinstance(error, errors.Overloaded | errors.Unavailable):
        return {"Retry-After": str(max(math.ceil(error.retry_after_s), 1))}
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def _where(location: tuple[int | str, ...]) -> str:
    """`body.temperature` as a client knows it: `temperature`."""
    names = [str(part) for part in location[1:] if isinstance(part, str) or len(location) > 2]
    return unicode_of(".".join(names) or str(location[0]))


def _what(item: Mapping[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return f"not JSON: {item.get('ctx', {}).get('error', 'cannot be read')}"
    if item["type"] == "extra_forbidden":
        return "unknown field"
    return unicode_of(str(item["msg"]).removeprefix("Value error, "))
