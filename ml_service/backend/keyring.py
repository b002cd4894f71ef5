"""The keys as requests meet them: in memory, read anew every few seconds, and for as long as the database is away."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Protocol

from ml_service.common.errors import ServiceError, Unauthenticated, Unavailable
from ml_service.data.api_keys import ENVIRONMENT, Holder, digest_of
from ml_service.data.database import now
from ml_service.utils.logs import EventLogger

log = EventLogger("keys")
_AGAIN_S = 1.0
"""An unknown key may be a new one: the database is asked at most so often because of them, however many are tried."""
_STALE_S, _OLD_S = 2.0, 5.0
"""What is older than the one is read anew beside the requests, than the other before them: who was revoked is let in
no longer than that."""
_PATIENCE_S = 1.0
"""So long a request waits for a database that does not answer, once, before it takes what was known."""
_KEPT_S = 24 * 3600.0
"""Keys that were known are good for so long while the database is away."""


class Keys(Protocol):
    """What remembers keys."""

    def holders(self) -> dict[bytes, Holder]:
        """SHA-256 of a key → whose it is."""


class Keyring:
    """Says whose key it is. All keys are read at once: neither guessing nor many clients cost a query each."""

    def __init__(self, given: str | None, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        """`given` is the environment's key. Nothing is read before it is needed."""
        self._keys = keys
        self._clock = clock
        self._given = digest_of(given) if given is not None else None
        self._known: dict[bytes, Holder] = {}
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def holder(self, secret: str) -> Holder:
        """Whose key it is. Raises Unauthenticated, Unavailable where it cannot be known now.

        What is compared are hashes of 256 random bits, so that how long it takes tells nothing about a key.
        """
        digest = digest_of(secret)
        if self._given is not None and hmac.compare_digest(digest, self._given):
            return _GIVEN
        holder = self._known.get(digest)
        age_s = self._clock() - self._read_at
        if age_s > (_OLD_S if holder is not None else _AGAIN_S):
            await self._look()
            holder = self._known.get(digest)
        elif age_s > _STALE_S:
            self._begin_to_look()
        self._check(holder)
        assert holder is not None, "it was checked"
        return holder

    def _check(self, holder: Holder | None) -> None:
        age_s = self._clock() - self._read_at
        if age_s > (_KEPT_S if holder is not None else _OLD_S):
            raise Unavailable("keys cannot be looked up now: the database does not answer", retry_after_s=2)
        if holder is None:
            raise Unauthenticated("the key is not known")
        if holder.revoked is not None:
            raise Unauthenticated(f"the key {holder.name} was revoked at {holder.revoked:%Y-%m-%d %H:%M} UTC")
        if holder.expires is not None and holder.expires <= now():
            raise Unauthenticated(f"the key {holder.name} has expired at {holder.expires:%Y-%m-%d %H:%M} UTC")

    async def _look(self) -> None:
        """Read them, or wait for who does; not for long, and not again at once where it has just failed."""
        if (reading := self._begin_to_look()) is not None:
            await asyncio.wait({reading}, timeout=_PATIENCE_S)

    def _begin_to_look(self) -> asyncio.Task[None] | None:
        """What reads; None where it was tried a moment ago."""
        if self._reading is not None and not self._reading.done():
            return self._reading if self._clock() - self._tried_at < _PATIENCE_S else None
        if self._clock() - self._tried_at < _AGAIN_S:
            return None
        self._tried_at = self._clock()
        self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        began = self._clock()
        try:
            self._known = await asyncio.to_thread(self._keys.holders)
        except ServiceError as error:
            log.warning("keys.not_read", error=str(error), known=len(self._known))
            return
        self._read_at = began


_GIVEN = Holder(ENVIRONMENT, frozenset({"admin"}))
