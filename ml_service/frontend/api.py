"""The service as a page asks it: JSON, files piece by piece, streams of events; what it refuses is an exception."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

_CONNECT_TIMEOUT_S = 3.0
_ANSWER_TIMEOUT_S = 30.0


class ApiError(Exception):
    """The service refused; the message is its own sentence."""

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 where there was no answer."""
        self.problem = dict(problem or {})
        """The whole `application/problem+json`."""
        self.had_key = False
        """Whether the service was asked with a key."""

    @property
    def is_away(self) -> bool:
        """Whether nobody answered at all."""
        return self.status == 0

    @property
    def wants_key(self) -> bool:
        """Whether a key is missing, or is not the right one."""
        return self.status == 401

    @property
    def about_key(self) -> str:
        """What to do where a key is wanted, and what is wrong with the one that there is."""
        if self.had_key:
            return f"{self} Enter another one with the key button above."
        return "Enter it with the key button above."

    @property
    def fields(self) -> dict[str, str]:
        """Field → what is wrong with it; the message has all of it, too."""
        return {each["loc"]: each["msg"] for each in self.problem.get("errors", ())}


class Api:
    """The service at one address, asked with one key."""

    def __init__(self, session: aiohttp.ClientSession, backend: str, key: str | None = None) -> None:
        self._session, self.backend, self.key = session, backend.rstrip("/"), key

    async def get(self, path: str, **query: str | int | float) -> Any:
        """What a route answers. Raises ApiError."""
        return await self.send("GET", path, query=query)

    async def beginning(self, path: str, most_bytes: int) -> bytes:
        """What a route answers that is no JSON, and no more than so much of it. Raises ApiError."""
        async with self._asked("GET", path) as response:
            taken = bytearray()
            async for piece in response.content.iter_any():
                taken += piece
                if len(taken) >= most_bytes:
                    break
            return bytes(taken[:most_bytes])

    @asynccontextmanager
    async def passed(
        self, method: str, path: str, headers: Mapping[str, str], body: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The service's own answer, a refusal too, for as long as it takes. Raises ApiError where none comes."""
        async with self._asked(method, path, body, headers=headers, timeout_s=None, is_told=True) as response:
            yield response

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int | float] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> Any:
        """What a route answers to this. Raises ApiError."""
        async with self._asked(method, path, body, query=query, headers=headers, timeout_s=timeout_s) as response:
            return await response.json() if response.status != 204 else None

    async def events(self, path: str, body: Mapping[str, Any] | None = None) -> AsyncGenerator[tuple[str, Any], None]:
        """Server-sent events, each its name (`message` where it has none) and what it says.

        POST where there is a body. Raises ApiError; who stops iterating (`aclosing`) leaves the service.
        """
        method, headers = ("GET" if body is None else "POST"), {"Accept": "text/event-stream"}
        async with self._asked(method, path, body, headers=headers, timeout_s=None) as response:
            waiting = b""
            async for piece in response.content.iter_any():
                *whole, waiting = (waiting + piece).split(b"\n\n")
                for event in whole:
                    if (told := _event(event)) is not None:
                        yield told

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | AsyncIterator[bytes] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = _ANSWER_TIMEOUT_S,
        is_told: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Refusals are raised, or told as answers."""
        sent: dict[str, Any] = {"json": body} if isinstance(body, Mapping) else {"data": body}
        own = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
        try:
            async with self._session.request(
                method, self.backend + path, params=query, headers={**own, **(headers or {})}, timeout=timeout, **sent
            ) as response:
                if response.status >= 400 and not is_told:
                    error = refusal(response.status, await response.read(), response.reason or "")
                    error.had_key = bool(self.key)
                    raise error
                yield response
        except TimeoutError as error:
            raise ApiError("The service takes too long to answer.") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ApiError("The service does not answer.") from error


def refusal(status: int, body: bytes | str, reason: str = "") -> ApiError:
    """An answer that is an error, with its own sentence where it has one."""
    try:
        problem = json.loads(body)
        sentence = problem.get("detail") or problem["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(f"The service answered {status} {reason}".rstrip() + ".", status)
    return ApiError(as_sentence(sentence), status, problem)


def as_sentence(text: str) -> str:
    """With a capital, unless it begins with the name of a file or of a field, and with an end."""
    if text.partition(" ")[0].rstrip(",:;").isalpha():
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def _event(lines: bytes) -> tuple[str, Any] | None:
    name, data = "message", []
    for line in lines.decode().split("\n"):
        kind, _, rest = line.partition(":")
        if kind == "event":
            name = rest.strip()
        elif kind == "data":
            data.append(rest.removeprefix(" "))
    return (name, json.loads("\n".join(data))) if data else None
