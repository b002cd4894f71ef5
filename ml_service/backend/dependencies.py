"""What routes ask for: the parts of the app, the key, the content type; async, or each would cost a thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from hashlib import blake2b
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.routing import Match
from starlette.types import Scope as RequestScope

from ml_service.backend.door import HOLDER
from ml_service.backend.middleware import TAKEN
from ml_service.common.errors import Forbidden, NotFound, Unauthenticated, UnsupportedMediaType
from ml_service.common.scopes import Scope, allows
from ml_service.common.settings import Settings
from ml_service.data.api_keys import ENVIRONMENT, Holder
from ml_service.data.database import Database
from ml_service.inference.handles import ACTIVE, BUCKETS, Live
from ml_service.inference.image_reader import ImageReader
from ml_service.inference.live import LiveModel
from ml_service.pipeline.replica import Replica
from ml_service.utils.logs import request_id

_FORM = b"multipart/form-data"


async def settings_of(request: Request) -> Settings:
    """The process's settings."""
    settings = request.app.state.settings
    assert isinstance(settings, Settings)
    return settings


async def live_of(request: Request) -> Live:
    """The holder of the model that answers."""
    return _live(request)


def open_model(request: Request, name: str = ACTIVE) -> LiveModel | None:
    """The model on which this request ends; `GiveBack` gives it back when the whole answer has been sent.

    None for a name that no open model has: `open_model(…) or await guest_model(…)`, so that who asks for the active one
    waits for nothing. Raises Unavailable where there is none. Called by the routes themselves: a dependency costs each
    request some forty microseconds.
    """
    try:
        model = _live(request).take(partial(_bucket, request), name)
    except NotFound:
        return None
    request.scope[TAKEN].append(model)
    return model


async def guest_model(request: Request, name: str) -> LiveModel:
    """The same of an experiment that is not open yet. Raises as `Guests.take`."""
    model = await (await replica_of(request)).guest(name)
    request.scope[TAKEN].append(model)
    return model


def _bucket(request: Request) -> int:
    """Where a request belongs: the same key, else the same `X-Request-ID`, always to the same model."""
    holder: Holder | None = request.scope.get(HOLDER)
    # All who know the environment's key share it.
    who = (holder.name if holder is not None and holder.name != ENVIRONMENT else request_id.get()) or ""
    return int.from_bytes(blake2b(who.encode(), digest_size=8).digest()) % BUCKETS


def _live(request: Request) -> Live:
    live = request.app.state.live
    assert isinstance(live, Live)
    return live


async def database_of(request: Request) -> Database:
    """What is remembered."""
    database = request.app.state.database
    assert isinstance(database, Database)
    return database


async def replica_of(request: Request) -> Replica:
    """This process among others."""
    replica = request.app.state.replica
    assert isinstance(replica, Replica)
    return replica


async def image_reader_of(request: Request) -> ImageReader:
    """Who reads pictures."""
    reader = request.app.state.image_reader
    assert isinstance(reader, ImageReader)
    return reader


async def actor_of(request: Request) -> str:
    """Who asks, for the audit log: the name of the key, or the address where keys are off."""
    holder: Holder | None = request.scope.get(HOLDER)
    if holder is not None:
        return holder.name
    return f"anonymous at {request.client.host if request.client else 'unknown'}"


class RequireKey(HTTPBearer):
    """The scope that a route wants of the key that came through the `Door`."""

    async def __call__(self, request: Request, wanted: SecurityScopes) -> None:  # type: ignore[override]
        """Raises Forbidden where keys are on and the key has not the scope."""
        if not request.app.state.keys_are_on:
            return
        holder: Holder | None = request.scope.get(HOLDER)
        if holder is None:
            raise Unauthenticated("this service wants a key: send `Authorization: Bearer KEY`")
        for scope in wanted.scopes:
            if not allows(holder.scopes, scope):
                held = ", ".join(sorted(holder.scopes))
                raise Forbidden(f"the key {holder.name} lacks the scope `{scope}`, which this takes; it has {held}")


_require_key = RequireKey(
    scheme_name="HTTPBearer",
    auto_error=False,
    description="A key of `ml-service keys create`, or ML_SERVICE_API_KEY. The names are the scopes of which it has to "
    "have one; `admin` is all. Not asked for where keys are off: on loopback, unless a setting says otherwise.",
)


def needs(*scopes: Scope) -> Any:
    """For the `dependencies` of a route: a key with this scope, any valid key where none is named."""
    return Security(_require_key, scopes=list(scopes))


class JsonRoute(APIRoute):
    """A route that takes JSON only and says so before it reads anything else."""

    takes = "application/json"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the check. Raises UnsupportedMediaType."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            media_type = _media_type(request.scope)
            if media_type != b"application/json":
                raise UnsupportedMediaType(
                    f"this route takes {self.takes}, not "
                    f"{media_type.decode('latin-1') or 'a body without a content type'}"
                )
            return await handle(request)

        return checked


class JsonBesideForm(JsonRoute):
    """A route that takes JSON where another one of the same path, a `FormRoute`, takes forms."""

    takes = "application/json or multipart/form-data"

    def matches(self, scope: RequestScope) -> tuple[Match, RequestScope]:
        """All that is no form: the error for other content types is ours."""
        found = super().matches(scope)
        return (Match.NONE, {}) if found[0] == Match.FULL and _media_type(scope) == _FORM else found


class FormRoute(APIRoute):
    """A route that takes forms where another one of the same path, a `JsonBesideForm`, takes JSON."""

    def matches(self, scope: RequestScope) -> tuple[Match, RequestScope]:
        """Forms only."""
        found = super().matches(scope)
        return found if found[0] == Match.FULL and _media_type(scope) == _FORM else (Match.NONE, {})


def _media_type(scope: RequestScope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            found: bytes = value.partition(b";")[0].strip().lower()
            return found
    return b""


CurrentLive = Annotated[Live, Depends(live_of)]
CurrentReplica = Annotated[Replica, Depends(replica_of)]
CurrentDatabase = Annotated[Database, Depends(database_of)]
CurrentActor = Annotated[str, Depends(actor_of)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key again is the same wish: it is answered as the first time and not done twice.",
    ),
]
CurrentImageReader = Annotated[ImageReader, Depends(image_reader_of)]
CurrentSettings = Annotated[Settings, Depends(settings_of)]
Timeout = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout",
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which the answer ends with what it has by then (`finish_reason` timeout); 503 where "
        "a picture has not been read by then.",
    ),
]
"""How long the client wants to wait; None for as long as the service allows."""
