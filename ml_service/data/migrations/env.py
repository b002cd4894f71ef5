"""Runs the migrations over the connection that it is given; rendered in batches, as SQLite needs it."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy.dialects.postgresql import JSONB

from ml_service.data import tables  # noqa: F401 (they enter the metadata as they are read)
from ml_service.data.columns import AnyFloat, Table, Utc
from ml_service.data.schema import VERSION_TABLE


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """Our own types by their own names, with the module that has them."""
    if kind == "type" and isinstance(item, Utc | AnyFloat):
        autogen.imports.add("from ml_service.data import columns")
        return f"columns.{type(item).__name__}()"
    if kind == "type" and isinstance(item, JSONB):
        autogen.imports.add("from sqlalchemy.dialects import postgresql")
        return "postgresql.JSONB()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    compare_type=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
