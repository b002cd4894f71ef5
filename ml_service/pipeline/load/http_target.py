"""A running service as target: `/forward` or OpenAI's `/v1/completions`, whole or as a stream, at little cost here."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from ml_service.pipeline.load.event_stream import EventParser, ServerEvent
from ml_service.pipeline.load.target import AskFailed, Used
from ml_service.pipeline.load.workload import Ask

Route = Literal["forward", "completions"]
Meaning = Literal["token", "usage", "error", "nothing"]
_KEEPALIVE_S = 4.0
"""uvicorn closes an idle connection after five seconds: reusing one just then would look like a failure."""
_NO_CHOICES = re.compile(rb'"choices":\s*\[\s*\]')
_NO_TEXT = re.compile(rb'"text":\s*""')


@dataclass(frozen=True)
class Service:
    """Where a service listens and how it is asked."""

    url: str = "http://127.0.0.1:8000"
    route: Route = "forward"
    streams: bool = True
    model: str = "active"
    """OpenAI's routes want a name; `/forward` does not."""
    api_key: str | None = None
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url!r} is no URL of a service: write http://127.0.0.1:8000")

    def __str__(self) -> str:
        return f"{self.url}{_DIALECTS[self.route].path}, {'streamed' if self.streams else 'whole'}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[HttpTarget]:
        """One session for a measurement, with as many connections as there are requests at a time."""
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            headers=headers,
        ) as session:
            yield HttpTarget(session, self)


class HttpTarget:
    """Asks over HTTP; only the last event of a stream is read as JSON, the others are counted."""

    def __init__(self, session: aiohttp.ClientSession, service: Service) -> None:
        self._session, self._service = session, service
        self._dialect = _DIALECTS[service.route](service.model)
        self._address = service.url.rstrip("/") + self._dialect.path
        self.takes_ids = self._dialect.takes_ids

    async def answer(self, ask: Ask, on_token: Callable[[], None]) -> Used:
        """The whole answer. Raises AskFailed by status, for a timeout and for a connection that fails."""
        body = json.dumps(self._dialect.body(ask, self._service.streams)).encode()
        try:
            async with self._session.post(self._address, data=body) as response:
                if response.status != 200:
                    raise AskFailed(str(response.status), await _sentence(response))
                if self._service.streams:
                    return self._used(await self._last_event(response, on_token))
                return self._used(await response.read())
        except TimeoutError as error:
            raise AskFailed("timeout", f"no answer within {self._service.timeout_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            message = f"nothing listens at {self._service.url}: start `ml-service serve`, or give another --url"
            raise AskFailed("cannot connect", message) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise AskFailed("connection lost", f"the connection was lost: {error}") from error

    async def _last_event(self, response: aiohttp.ClientResponse, on_token: Callable[[], None]) -> bytes:
        parser, usage = EventParser(), b""
        async for chunk in response.content.iter_any():
            for event in parser.feed(chunk):
                match self._dialect.meaning(event):
                    case "token":
                        on_token()
                    case "usage":
                        usage = event.data
                    case "error":
                        raise AskFailed("error in the stream", event.data.decode(errors="replace"))
        if not usage:
            raise AskFailed("stream cut short", "the stream ended before its last event")
        return usage

    def _used(self, answer: bytes) -> Used:
        try:
            return self._dialect.used(json.loads(answer)["usage"])
        except (ValueError, KeyError, TypeError) as error:
            raise AskFailed("unreadable answer", f"the answer has no usage: {answer[:200]!r}") from error


class _Forward:
    """Our own route."""

    path = "/forward"
    takes_ids = False

    def __init__(self, model: str) -> None: ...

    def body(self, ask: Ask, streams: bool) -> dict[str, Any]:
        body = {"text": ask.prompt, "max_new_tokens": ask.new_tokens, "stream": streams}
        return body | _sampling(ask)

    def meaning(self, event: ServerEvent) -> Meaning:
        meanings: dict[bytes, Meaning] = {b"": "token", b"done": "usage", b"error": "error"}
        return meanings.get(event.name, "nothing")

    def used(self, usage: dict[str, Any]) -> Used:
        return Used(usage["prompt_tokens"], usage["completion_tokens"], usage["cached_tokens"])


class _Completions:
    """OpenAI's route, of this service or of any other that speaks it."""

    path = "/v1/completions"
    takes_ids = True

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, ask: Ask, streams: bool) -> dict[str, Any]:
        body = {"model": self._model, "prompt": ask.prompt, "max_tokens": ask.new_tokens, "stream": streams}
        options = {"stream_options": {"include_usage": True}} if streams else {}
        return body | options | _sampling(ask)

    def meaning(self, event: ServerEvent) -> Meaning:
        if event.data.startswith(b'{"error"'):
            return "error"
        if event.data == b"[DONE]" or _NO_TEXT.search(event.data):
            return "nothing"
        return "usage" if _NO_CHOICES.search(event.data) else "token"

    def used(self, usage: dict[str, Any]) -> Used:
        details = usage.get("prompt_tokens_details") or {}
        return Used(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens") or 0)


_DIALECTS: dict[Route, type[_Forward] | type[_Completions]] = {"forward": _Forward, "completions": _Completions}


def _sampling(ask: Ask) -> dict[str, Any]:
    ends = {"ignore_eos": True} if ask.ignore_eos else {}
    return {"temperature": ask.temperature, "seed": ask.seed} | ends


async def _sentence(response: aiohttp.ClientResponse) -> str:
    """What the service says of its refusal: a problem's detail, OpenAI's message, or the beginning of the text."""
    text = await response.text(errors="replace")
    try:
        problem = json.loads(text)
        said = problem["detail"] if "detail" in problem else problem["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = text[:200]
    return f"{response.status} {said}"
