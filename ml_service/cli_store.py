"""Settings and store as the verbs of the command line have them, and who they say is asking."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ml_service.common.settings import Settings

if TYPE_CHECKING:
    from ml_service.data.database import Database


@contextmanager
def opened_store() -> Iterator[tuple[Settings, Database]]:
    """The store that the environment names, its schema up to date."""
    from ml_service.data.database import Database  # other verbs need no database
    from ml_service.data.schema import migrate

    settings = Settings()
    database = Database(settings.database_address, settings.store)
    try:
        migrate(database)
        yield settings, database
    finally:
        database.close()


def actor() -> str:
    """Who sits at the terminal, for the audit log."""
    try:
        return f"{getpass.getuser()} in a terminal"
    except (OSError, KeyError):  # a container may run as a number without a name
        return "a terminal"


def settings_with(**given: Any) -> Settings:
    """The environment's settings, with what the command line gave on top; a bundle may be a name in the store."""
    from ml_service.data.bundles import Bundles

    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    if settings.bundle is None:
        return settings
    return settings.model_copy(update={"bundle": Bundles(settings.store).find(settings.bundle)})
