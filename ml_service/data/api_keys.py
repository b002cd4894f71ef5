"""API keys: made and shown once, told apart by their hashes, revoked for good."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import exists, or_, select

from ml_service.common.errors import BadRequest, Conflict, NotFound
from ml_service.common.rates import Rate
from ml_service.common.scopes import SCOPES
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.tables import ApiKey

MARK = "mls_"
"""Every key begins so: scanners of repositories and logs can find one that was left there."""
_RANDOM_BYTES, _PREFIX = 32, 12
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ENVIRONMENT = "environment"
"""The key that the environment gives has this name in the audit log."""
_TAKEN = frozenset({ENVIRONMENT, "anonymous", "retention", "service", "start", "watch", "worker"})
"""Names under which the service itself acts."""


@dataclass(frozen=True)
class MadeKey:
    """A new key; `secret` is nowhere else."""

    secret: str
    kept: ApiKey


@dataclass(frozen=True)
class Holder:
    """Whose key it is and what it may do."""

    name: str
    scopes: frozenset[str]
    expires: datetime | None = None
    revoked: datetime | None = None
    rate: Rate | None = None


class ApiKeys:
    """All keys, of which only the hashes are kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        scopes: Collection[str],
        actor: str,
        expires: datetime | None = None,
        rate: Rate | None = None,
    ) -> MadeKey:
        """A new key. Raises BadRequest where its name or a scope is none, Conflict where there was one of the name."""
        _check(name, scopes)
        secret = MARK + secrets.token_urlsafe(_RANDOM_BYTES)
        kept = ApiKey(
            name=name, prefix=secret[:_PREFIX], sha256=digest_of(secret).hex(),
            scopes=[scope for scope in SCOPES if scope in scopes], created=now(), expires=expires,
            rate=str(rate) if rate is not None else None,
        )  # fmt: skip
        with self._database.writing() as session:
            self._database.lock_for_this_transaction(session, "api_keys")
            if session.scalar(select(exists().where(ApiKey.name == name))):
                raise Conflict(f"there is or was a key {name}: names are not used again, or the audit log would lie")
            session.add(kept)
            told = {"scopes": kept.scopes, "expires": expires.isoformat() if expires else None, "rate": kept.rate}
            audit.record(self._database, session, actor, "create key", f"key {name}", {}, told)
        return MadeKey(secret, kept)

    def revoke(self, name: str, actor: str) -> bool:
        """Let it open nothing any more; whether it did until now. Raises NotFound."""
        with self._database.writing() as session:
            key = session.scalar(select(ApiKey).where(ApiKey.name == name).with_for_update())
            if key is None:
                raise NotFound(f"there is no key {name}; `ml-service keys list` lists them")
            if key.revoked is not None:
                return False
            key.revoked = now()
            audit.record(self._database, session, actor, "revoke key", f"key {name}", {"scopes": key.scopes}, {})
        return True

    def all(self) -> list[ApiKey]:
        """In the order in which they were made."""
        with self._database.reading() as session:
            return list(session.scalars(select(ApiKey).order_by(ApiKey.id)))

    def holders(self) -> dict[bytes, Holder]:
        """SHA-256 of a key → whose it is, of those too that open nothing any more."""
        return {
            bytes.fromhex(key.sha256): Holder(
                key.name, frozenset(key.scopes), key.expires, key.revoked, Rate.parse(key.rate) if key.rate else None
            )
            for key in self.all()
        }

    def can_open_anything(self) -> bool:
        """Whether there is a key that is neither revoked nor past its time."""
        is_alive = or_(ApiKey.expires.is_(None), ApiKey.expires > now())
        with self._database.reading() as session:
            return bool(session.scalar(select(exists().where(ApiKey.revoked.is_(None), is_alive))))


def digest_of(secret: str) -> bytes:
    """What is kept of a key: 256 random bits need no salt and no slow hash."""
    return sha256(secret.encode()).digest()


def _check(name: str, scopes: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no name of a key: up to 63 lower-case letters, digits, dots, hyphens, _")
    if name in _TAKEN:
        raise BadRequest(f"{name} is what the audit log calls the service's own doings: take another name")
    if not scopes:
        raise BadRequest(f"a key wants at least one scope of {', '.join(SCOPES)}")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise BadRequest(f"there is no scope {', '.join(unknown)}: there are {', '.join(SCOPES)}")
