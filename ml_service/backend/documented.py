"""What the OpenAPI document says of all routes alike: errors, request ids, and which of them a route can answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from ml_service.backend.errors import PROBLEM, openai_error, problem
from ml_service.backend.schemas import Problem

Node = dict[str, Any]
_METHODS = ("get", "put", "post", "delete", "patch")
_ANSWERS = {
    400: ("BadRequest", "bad request", "The request is wrong; `errors` says where and why."),
    401: ("Unauthenticated", "auth", "Keys are on, and the request has none that is known."),
    403: ("Forbidden", "model_failure", "The key has not the scope (`auth`), or the request was right and the model "
          "could not process it (`model_failure`)."),
    404: ("NotFound", "not found", "There is no such thing."),
    409: ("Conflict", "conflict", "The state does not allow it."),
    413: ("TooLarge", "too large", "A body, file, picture or count is over its limit."),
    415: ("UnsupportedMediaType", "unsupported media type", "The route does not take this content type."),
    429: ("Overloaded", "overloaded", "All places are taken, or the key has spent its rate; `Retry-After` says when."),
    503: ("Unavailable", "unavailable", "Starting, draining, no model, or no database; `Retry-After` says when."),
    507: ("InsufficientStorage", "insufficient storage", "The disk has too little room."),
}  # fmt: skip
_REQUEST_ID = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
_MORE_HEADERS = {
    401: {"WWW-Authenticate": {"$ref": "#/components/headers/Authenticate"}},
    429: {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}},
    503: {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}},
}
_HEADERS = {
    "RequestId": {
        "description": "The request's own where it is 1 to 128 of `A-Z a-z 0-9 . _ : -`, else one that is made for it.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    "RetryAfter": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
    "Authenticate": {"description": "How to send the key.", "schema": {"type": "string"}},
}


class OpenAIErrorBody(BaseModel):
    """What is wrong, as OpenAI's clients know it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error of a route under `/v1`."""

    error: OpenAIErrorBody


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route's own, for its `responses`: `describe` says what they are and adds those that all have."""
    return {status: {} for status in statuses}


def schema_of(model: type[BaseModel], mode: Literal["validation", "serialization"] = "validation") -> dict[str, Any]:
    """Of a body that the framework does not know: a reference, and what it refers to, for `describe` to put away."""
    schema = model.model_json_schema(mode=mode)
    return {"$defs": schema.pop("$defs", {}) | {model.__name__: schema}, "$ref": f"#/$defs/{model.__name__}"}


def event_stream(*models: type[BaseModel]) -> dict[str, Any]:
    """The content of an answer of server-sent events, each with one of the models (of anything, where none) as JSON."""
    data = {"anyOf": [schema_of(model, "serialization") for model in models]} if models else {}
    properties = {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
    }
    event = {"type": "object", "properties": properties, "required": ["data"]}
    return {"text/event-stream": {"itemSchema": event}}


def describe(app: FastAPI) -> None:
    """Let the app's document tell of errors as they are answered. The framework knows only its own 422."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(original(), app.state.keys_are_on)
        assert app.openapi_schema is not None, "the framework keeps its document"
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: Node, keys_are_on: bool) -> None:
    components = document["components"]
    schemas: Node = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (Problem, OpenAIError):
        schemas[model.__name__] = model.model_json_schema()
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                operations[method]["responses"] = _responses(path, operations[method])
                if "security" in operations[method] and not keys_are_on:
                    operations[method]["security"].append({})  # which says: or nothing
    components["headers"] = _HEADERS
    components["responses"] = dict(_shared_responses())
    _hoist(document, schemas)


def _responses(path: str, operation: Node) -> Node:
    """What the operation says of itself, and what all that are like it answer."""
    own = {status: answer for status, answer in operation["responses"].items() if status != "422"}
    for status in _common(operation):
        own.setdefault(str(status), {})
    prefix = "OpenAI" if path.startswith("/v1/") else ""
    return {status: _response(prefix, int(status), answer) for status, answer in sorted(own.items())}


def _common(operation: Node) -> Iterator[int]:
    if "parameters" in operation or "requestBody" in operation:
        yield 400
    if "requestBody" in operation:
        yield from (413, 415)
    if "security" in operation:
        yield from (401, 403, 429, 503)


def _response(prefix: str, status: int, answer: Node) -> Node:
    schemas = [content.get("schema", {}) for content in answer.get("content", {}).values()]
    if status >= 400 and all(schema == {"$ref": "#/components/schemas/Problem"} for schema in schemas):
        return {"$ref": f"#/components/responses/{prefix}{_ANSWERS[status][0]}"}
    return answer | {"headers": answer.get("headers", {}) | _REQUEST_ID}


def _shared_responses() -> Iterator[tuple[str, Node]]:
    for status, (name, title, description) in _ANSWERS.items():
        example = problem(status, title, description) | {"request_id": "4f1c07d4a9"}
        headers = _REQUEST_ID | _MORE_HEADERS.get(status, {})
        content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}}
        yield name, {"description": description, "headers": headers, "content": content}
        told = {"schema": {"$ref": "#/components/schemas/OpenAIError"}, "example": openai_error(status, example)}
        yield f"OpenAI{name}", {
            "description": description, "headers": headers, "content": {"application/json": told},
        }  # fmt: skip


def _hoist(node: Any, schemas: Node) -> None:
    """Move definitions that a schema brings along to where the document's own are, and every reference with them."""
    if isinstance(node, list):
        for each in node:
            _hoist(each, schemas)
    elif isinstance(node, dict):
        for name, definition in node.pop("$defs", {}).items():
            if name not in schemas:
                schemas[name] = definition
                _hoist(definition, schemas)
        reference = node.get("$ref")
        if isinstance(reference, str):
            node["$ref"] = reference.replace("#/$defs/", "#/components/schemas/")
        for each in list(node.values()):
            _hoist(each, schemas)
