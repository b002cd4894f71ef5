"""Values that break services, put into every field of every JSON body that the OpenAPI document knows."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.chaos.fuzz_document import MOST_TOKENS, PATIENCE_S, Tried

Node = dict[str, Any]
_HOLE = "@@hole@@"
VALUES: dict[str, str] = {
    "null": "null", "true": "true", "a list": "[]", "an object": "{}", "nothing": '""', "NUL": r'"\u0000"',
    "NUL inside": r'"a\u0000b"', "half a surrogate pair": r'"\ud800"', "the other half": r'"a\udfffb"',
    "halves inside a key": r'{"\ud800": "\udc00"}', "a list of halves": r'["\ud800"]',
    "NUL in a key": r'{"\u0000": "\u0000"}', "no character": r'"\uffff\ufffe"', "turned around": r'"\u202e\u200f"',
    "a number as text": '"1"', "-0": "-0", "-0.0": "-0.0", "2**31": str(2**31), "2**63 - 1": str(2**63 - 1),
    "2**63": str(2**63), "2**64": str(2**64), "-2**63": str(-(2**63)), "10**400": str(10**400),
    "10**5000": "1" + "0" * 5_000, "NaN": "NaN", "Infinity": "Infinity", "-Infinity": "-Infinity", "1e400": "1e400",
    "5e-324": "5e-324", "1e308": "1e308", "0.1": "0.1", "deep lists": "[" * 5_000 + "]" * 5_000,
    "deep objects": '{"a":' * 5_000 + "1" + "}" * 5_000, "a long text": '"' + "a" * 200_000 + '"',
    "spaces": '" \\t\\n\\u00a0"', "a long list": "[" + "0," * 50_000 + "0]", "SQL": '"\'; DROP TABLE experiments; --"',
    "a path": '"../../../etc/passwd"', "a template": '"{{ 7 * 7 }}${7*7}%s%n"', "a like pattern": '"%_\\\\"',
    "an emoji": '"\U0001f642"', "a bomb of a pattern": '"(a+)+$"',
}  # fmt: skip
_WHOLE = (
    b"", b"null", b"[]", b"0", b'""', b"{", b"{}x", b"\xef\xbb\xbf{}", '{"text": "a"}'.encode("utf-16"), b"\xff\xfe",
    b"\0", b'{"text": "a", "text": "b"}', b'{"": 1}', b"[" * 200_000, b'{"a":' * 200_000, b'{"text": "\xed\xa0\x80"}',
    b"NaN", b'{"text": "\xc0\x80"}', b"{}" * 50_000, b" " * 200_000, b"'a'", b"{text: 1}", b"/**/{}", b'{"a": 01}',
    b'{"a": .1}',
)  # fmt: skip
_PICTURE = {"type": "image_url", "image_url": {"url": _HOLE}}
_CONTENTS: tuple[Any, ...] = (_HOLE, [{"type": "text", "text": _HOLE}], [_PICTURE])
_DEEPER: dict[str, tuple[Any, ...]] = {
    "texts": ([{"text": _HOLE}], ["a", {"text": "a", "id": _HOLE}]),
    "messages": (*([{"role": "user", "content": content}] for content in _CONTENTS), [{"role": _HOLE, "content": "a"}]),
}  # fmt: skip
_SLOW = ("/add_data", "/evaluate")
_FEW = (
    "NUL", "NUL inside", "half a surrogate pair", "the other half", "halves inside a key", "NUL in a key", "10**400",
)  # fmt: skip
"""Where each accepted body has a process look at it: what a database or a file cannot take."""


def try_values(client: httpx.Client, step: int = 1) -> Tried:
    """Every operation's first example, with each of its fields replaced by each of the values; every `step`th case."""
    tried = Tried()
    document = client.get("/openapi.json").raise_for_status().json()
    for method, path, name, content in itertools.islice(_bodies(document), 0, None, step):
        target, began = path.replace("{experiment_id}", "1"), time.monotonic()
        operation = f"{method.upper()} {path}"
        status, text = _answered(client, method, target, content)
        tried.note(operation, status, time.monotonic() - began)
        if not status.startswith(("2", "4")) or "an error of the service" in text:
            tried.failures.setdefault(f"{operation}: {name}: {status}", f"{content[:300]!r} {text[:300]}")
    return tried


def _answered(client: httpx.Client, method: str, path: str, content: bytes) -> tuple[str, str]:
    headers = {"Content-Type": "application/json"}
    try:
        answer = client.request(method, path, content=content, headers=headers, timeout=PATIENCE_S)
    except httpx.TimeoutException:
        return "hangs", ""
    except httpx.RemoteProtocolError as error:
        return "breaks off", str(error)
    return str(answer.status_code), answer.text


def _bodies(document: Node) -> Iterator[tuple[str, str, str, bytes]]:
    """(method, path, what it is, body)."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            for whole in _WHOLE:
                yield method, path, "a whole body", whole
            schema = _resolved(document, content["schema"])
            example: Node = content.get("example") or schema["examples"][0]
            budget = {name: MOST_TOKENS for name in ("max_tokens", "max_new_tokens") if name in schema["properties"]}
            for field, own in schema["properties"].items():
                fields = _resolved(document, own).get("properties", {})
                for hole in (_HOLE, [_HOLE], *({name: _HOLE} for name in fields), *_DEEPER.get(field, ())):
                    body = json.dumps(budget | example | {field: hole})
                    for name, value in VALUES.items():
                        if path not in _SLOW or name in _FEW:
                            yield method, path, f"{field}: {name}", body.replace(f'"{_HOLE}"', value).encode()


def _resolved(document: Node, schema: Node) -> Node:
    """Behind references; of alternatives the first that has fields."""
    if "$ref" in schema:
        return _resolved(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    choices = [_resolved(document, choice) for choice in schema.get("anyOf", [])]
    return next((choice for choice in choices if "properties" in choice), schema)
