"""The door of the service: whose key it is, how often it asks, whether there is a place, and no foreign sites."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_service.backend.errors import error_response, problem_of
from ml_service.backend.keyring import Keyring
from ml_service.backend.rate_limits import RateLimits, Standing, name_of_address
from ml_service.common.errors import Forbidden, RateSpent, ServiceError, Unauthenticated
from ml_service.data.api_keys import Holder
from ml_service.utils.telemetry import Telemetry

HOLDER = "ml_service.holder"
"""In a request's scope: the `Holder` of the key that it came with, where keys are on."""
_OPEN = frozenset({"/", "/health", "/health/live", "/health/ready", "/docs", "/openapi.json", "/ui"})
_OPEN_BELOW = ("/docs/", "/ui/")
"""The page is a client: it sends the key that its visitor has."""
_UNLIMITED = _OPEN | {"/metrics"}
_WANT_PLACES = frozenset({"/forward", "/v1/completions", "/v1/chat/completions"})
"""Answered by a model at once or not at all; batches wait for their turn."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OURS = frozenset({b"same-origin", b"none"})


class Door:
    """Before a body is read: 401 without a key that is known, 403 for a foreign site, 429 for who asks too often.

    Also 429 for who would get no place: under overload most are refused, and each costs the requests that are answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring | None,
        limits: RateLimits | None,
        telemetry: Telemetry,
        expect_place: Callable[[], None],
    ) -> None:
        """Without `keyring` everybody is let in, without `limits` as often as they like.

        `expect_place` raises Overloaded where no model takes one more request.
        """
        self.app, self._expect_place = app, expect_place
        self._keyring, self._limits, self._telemetry = keyring, limits, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        standing = None
        try:
            if scope["method"] not in _SAFE:
                _refuse_foreign_sites(scope)
            holder = await self._let_in(scope)
            if self._limits is not None and scope["path"] not in _UNLIMITED:
                standing = self._counted(self._limits, scope, holder)
                if standing is not None and standing.is_over:
                    raise _spent(standing)
            if scope["path"] in _WANT_PLACES and scope["method"] == "POST":
                self._expect_place()
        except ServiceError as error:
            answer = error_response(scope["path"], *problem_of(error))
            await answer(scope, receive, _telling(send, standing) if standing is not None else send)
            return
        await self.app(scope, receive, _telling(send, standing) if standing is not None else send)

    async def _let_in(self, scope: Scope) -> Holder | None:
        """Raises Unauthenticated, Unavailable."""
        path = scope["path"]
        if self._keyring is None or path in _OPEN or path.startswith(_OPEN_BELOW):
            return None
        holder = scope[HOLDER] = await self._keyring.holder(_secret(scope))
        return holder

    def _counted(self, limits: RateLimits, scope: Scope, holder: Holder | None) -> Standing | None:
        if holder is not None:
            standing = limits.count(f"key {holder.name}", holder.rate)
        elif self._keyring is not None or not limits.has_default:
            return None  # where keys are on, only what is open to all comes without one
        else:
            client = scope.get("client")
            standing = limits.count(name_of_address(client[0] if client else None))
        if standing is not None and standing.is_over:
            self._telemetry.rejections.labels("rate_limit").inc()
        return standing


def _secret(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, secret = value.partition(b" ")
            if kind.lower() != b"bearer":
                raise Unauthenticated("the header Authorization has to be `Bearer KEY`")
            found: str = secret.strip().decode("latin-1")
            return found
    raise Unauthenticated("this service wants a key: send `Authorization: Bearer KEY`")


def _refuse_foreign_sites(scope: Scope) -> None:
    """A page of another site can make its visitor's browser send forms, and requests without a body, to this service.

    JSON, or a key, it cannot send without asking before (CORS), which is not answered here. Browsers say where a
    request comes from; other clients do not. Raises Forbidden.
    """
    origin, site, host = b"", b"", b""
    for name, value in scope["headers"]:
        if name == b"authorization" or (name == b"content-type" and value.startswith(b"application/json")):
            return
        if name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
        elif name == b"host":
            host = value
    if site in _OURS or (not site and (not origin or origin.partition(b"://")[2] == host)):
        return
    raise Forbidden("this request comes from a page of another web site: it has to send a key of its own")


def _spent(standing: Standing) -> RateSpent:
    rate = standing.rate
    return RateSpent(f"more than {rate.requests:,} requests in {rate.seconds:,} s", standing.resets_in_s)


def _telling(send: Send, standing: Standing) -> Send:
    async def send_with_standing(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).raw.extend(standing.headers())
        await send(message)

    return send_with_standing
