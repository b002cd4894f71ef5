"""The schema is brought to its newest state: once, under a lock, and at no cost where it is there already."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from ml_service.data.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "ml_service_schema"
HEAD = "0003"


def migrate(database: Database) -> bool:
    """Bring the schema to `HEAD`; whether there was anything to do. Raises Unavailable."""
    if current_revision(database) == HEAD:
        return False
    with database.exclusive("migrate"):
        if current_revision(database) == HEAD:  # another process was faster
            return False
        from alembic import command  # a third of a second, once in a schema's life

        with database.without_limit(), database.engine.connect() as connection:
            command.upgrade(alembic_config(connection), "head")
            connection.commit()
    return True


def current_revision(database: Database) -> str | None:
    """Where the schema stands; None for an empty database. Raises Unavailable."""
    with database.reading() as session:
        if not inspect(session.connection()).has_table(VERSION_TABLE):
            return None
        revision: str | None = session.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return revision


def alembic_config(connection: object) -> Config:
    """Alembic's configuration for our migrations over this connection."""
    from alembic.config import Config

    config = Config(stdout=sys.stdout)  # its default is what that was when Alembic was imported
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
