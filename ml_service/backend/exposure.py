"""Who could reach the service without a key is found out before it listens."""

from __future__ import annotations

from ml_service.common.errors import BadRequest
from ml_service.common.settings import Settings
from ml_service.data.api_keys import ApiKeys
from ml_service.data.database import Database
from ml_service.data.schema import migrate

_HOW = (
    "make one with `ml-service keys create NAME --scope infer` (its --help tells of scopes), or set "
    "ML_SERVICE_API_KEY to one that may do everything"
)


def check_exposure(settings: Settings) -> None:
    """Raises BadRequest where keys are on and there is none; Unavailable where that cannot be known."""
    if not settings.keys_are_on or settings.api_key is not None or _has_key(settings):
        return
    if settings.is_on_loopback:
        raise BadRequest(f"ML_SERVICE_KEYS is `required` and there is no key that is valid: {_HOW}")
    raise BadRequest(
        f"{settings.host} can be reached from other machines and there is no key that is valid: {_HOW}; or say "
        "ML_SERVICE_ALLOW_OPEN_NETWORK=true if everybody who reaches the port is meant to do everything"
    )


def _has_key(settings: Settings) -> bool:
    database = Database(settings.database_address, settings.store)
    try:
        migrate(database)
        return ApiKeys(database).can_open_anything()
    finally:
        database.close()
