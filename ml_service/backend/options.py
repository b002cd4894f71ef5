"""Options as text: form fields, headers and table cells become what a request's schema says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers

from ml_service.backend.errors import bad_request_of
from ml_service.common.errors import BadRequest

Schema = TypeVar("Schema", bound=BaseModel)
Texts = Mapping[str, Sequence[str]]
"""Field → its values, in the order in which they came."""


def options_of(schema: type[Schema], form: Texts, headers: Headers) -> Schema:
    """The options of a form; a field goes before the header of its name (`X-Max-New-Tokens: 64`).

    Raises BadRequest with the names of the fields that are wrong.
    """
    given = _from_headers(schema, headers) | {name: form[name] for name in schema.model_fields if name in form}
    try:
        return schema.model_validate(values_of(schema, given))
    except ValidationError as error:
        raise bad_request_of(error) from error


def values_of(schema: type[BaseModel], texts: Texts) -> dict[str, Any]:
    """Values that the schema can judge: lists are repeated or in JSON, objects are JSON, all else is one text.

    Raises BadRequest where what should be JSON is none, or a single value came more than once.
    """
    return {name: _value(name, texts[name], _kinds(schema).get(name)) for name in texts}


def header_of(name: str) -> str:
    """A field's name as a header: `max_new_tokens` is `X-Max-New-Tokens`."""
    return "X-" + name.replace("_", "-").title()


def form_properties(schema: type[BaseModel]) -> dict[str, Any]:
    """The fields as the OpenAPI document tells of them in a form."""
    properties: dict[str, Any] = schema.model_json_schema()["properties"]
    for name, kind in _kinds(schema).items():
        if kind is not None:
            how = "repeat the field, or send JSON" if kind is list else "send JSON"
            properties[name]["description"] = f"{properties[name].get('description', '')} In a form: {how}.".strip()
    return properties


@cache
def _kinds(schema: type[BaseModel]) -> dict[str, type | None]:
    """Field → whether it is a list or an object; None for what one text can say."""
    return {name: _kind(field.annotation) for name, field in schema.model_fields.items()}


def _kind(annotation: Any) -> type | None:
    if get_origin(annotation) in (Union, UnionType):
        return next((kind for part in get_args(annotation) if (kind := _kind(part)) is not None), None)
    origin = get_origin(annotation) or annotation
    return origin if origin in (list, dict) else None


def _value(name: str, texts: Sequence[str], kind: type | None) -> Any:
    if kind is list:
        return _items(texts)
    if len(texts) > 1:
        raise BadRequest(f"{name}: it came {len(texts)} times", [(name, "more than one value")])
    return _from_json(name, texts[0]) if kind is dict else texts[0]


def _items(texts: Sequence[str]) -> list[Any]:
    """Of a list that was repeated, or sent as JSON in one piece; a text that only begins like JSON is a text."""
    if len(texts) == 1 and texts[0].lstrip().startswith("["):
        try:
            whole = json.loads(texts[0])
        except (ValueError, RecursionError):
            return list(texts)
        return whole if isinstance(whole, list) else list(texts)
    return list(texts)


def _from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{name}: not JSON: {str(error)[:120]}", [(name, "not JSON")]) from error


def _from_headers(schema: type[BaseModel], headers: Headers) -> dict[str, Sequence[str]]:
    found = {name: headers.getlist(header_of(name)) for name in schema.model_fields}
    return {name: [_unicode(name, value) for value in values] for name, values in found.items() if values}


def _unicode(name: str, value: str) -> str:
    """Headers come as bytes, which the framework takes for Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise BadRequest(f"{header_of(name)}: not UTF-8", [(name, "not UTF-8")]) from error
