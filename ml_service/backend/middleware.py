"""Pure ASGI middleware: request ids, body limits, and an end to the work of clients who leave."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_service.backend.errors import error_response, problem_of
from ml_service.common.errors import TooLarge, Unavailable
from ml_service.inference.handles import Live
from ml_service.inference.live import LiveModel
from ml_service.utils.logs import request_id, request_path
from ml_service.utils.tracing import tracer

HEADER = "X-Request-ID"
CLIENT_LEFT = 499
_RETRY_S = 5.0
TAKEN = "ml_service.taken"
"""In a request's scope: the models that it took."""
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """Gives each request an id, the client's own where it is a sane one, in logs, errors and the answer's header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        current = given if _SANE.fullmatch(given) else f"{random.getrandbits(128):032x}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = current
            await send(message)

        token = request_id.set(current)
        if (making := tracer()) is not None:
            making.note("ml_service.request_id", current)
        request_path.set(scope["path"])  # the context is this request's own
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


class AnswerBugs:
    """Answers an error that nobody expected with a problem; the framework would do so outside of the request's id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        has_begun = False

        async def send_watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_watched)
        except asyncio.CancelledError:  # a client who leaves does not come to here: it is the server that ends
            if scope["type"] == "http" and not has_begun:
                late = Unavailable("the service ended before this was done", retry_after_s=_RETRY_S)
                await _send_problem(late, scope, receive, send)
            raise
        except Exception as error:  # the border of the service
            if scope["type"] != "http" or has_begun:
                raise
            await _send_problem(error, scope, receive, send)


class GiveBack:
    """Gives back the models that a request took when it is over, its stream sent or its client gone."""

    def __init__(self, app: ASGIApp, live: Live) -> None:
        self.app, self.live = app, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        taken: list[LiveModel] = []
        scope[TAKEN] = taken
        try:
            await self.app(scope, receive, send)
        finally:
            for model in taken:
                self.live.give_back(model)


class BodyLimit:
    """Refuses a body over the limit: by its declared length before a byte is read, else when the limit is passed.

    Files that are sent as a form to one of the paths of `uploads`, or below one that ends with a slash, have the limit
    that stands there. Whatever is sent to one of `pictures` has theirs: those routes look themselves how much of it is
    no picture.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        uploads: Mapping[str, int] | None = None,
        pictures: Mapping[str, int] | None = None,
    ) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes
        self.uploads, self.pictures = uploads or {}, pictures or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared, limit = headers.get("content-length", ""), self._limit_of(scope, headers)
        if declared.isdigit() and int(declared) > limit:
            await _send_problem(TooLarge(f"the request body is larger than {limit:,} bytes"), scope, receive, send)
            return
        read_bytes = 0

        async def receive_counted() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > limit:
                raise HTTPException(413)  # the one kind that the framework lets through while it reads a body
            return message

        await self.app(scope, receive_counted, send)

    def _limit_of(self, scope: Scope, headers: Headers) -> int:
        path = scope["path"]
        if path in self.pictures:
            return self.pictures[path]
        limit = next((limit for known, limit in self.uploads.items() if _is_at(path, known)), None)
        if limit is None:
            return self.max_body_bytes
        is_form = headers.get("content-type", "").strip().lower().startswith("multipart/form-data")
        return limit if is_form else self.max_body_bytes


def _is_at(path: str, known: str) -> bool:
    return path == known or (known.endswith("/") and path.startswith(known))


class CancelOnDisconnect:
    """Cancels the handler when its client leaves; a plain handler would run on to its end for nobody.

    The body is passed through as it comes. Once it is complete, `receive` is watched for the disconnect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body_is_read, has_left, has_begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
        handler = asyncio.current_task()
        assert handler is not None, "a request is served in a task"

        async def receive_body() -> Message:
            if body_is_read.is_set():  # from here on the watcher owns `receive`
                await has_left.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                has_left.set()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                body_is_read.set()
            return message

        async def send_watched(message: Message) -> None:
            has_begun.set()
            await send(message)

        async def watch() -> None:
            await body_is_read.wait()
            while not has_left.is_set():
                if (await receive())["type"] == "http.disconnect":
                    has_left.set()
            handler.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self.app(scope, receive_body, send_watched)
        except asyncio.CancelledError:
            if not has_left.is_set():  # it is the server that ends
                raise
            handler.uncancel()
        finally:
            watcher.cancel()
        if has_left.is_set() and not has_begun.is_set():
            # Nobody reads it; the metrics count it for what it was and not as an error of ours.
            await send({"type": "http.response.start", "status": CLIENT_LEFT, "headers": []})
            await send({"type": "http.response.body"})


async def _send_problem(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(scope["path"], *problem_of(error))(scope, receive, send)
