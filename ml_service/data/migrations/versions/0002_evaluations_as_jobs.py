"""Evaluations that take their time: a state, a report, who asked, the job that works on it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from ml_service.data import columns

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
_STATES = "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')"


def upgrade() -> None:
    """Apply it. Columns are added in place: deployments refer to the table, so SQLite could not make it anew."""
    is_state = sa.CheckConstraint(_STATES, name="ck_evaluations_state")
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    for column in (
        sa.Column("state", sa.String(length=16), is_state, nullable=False, server_default="succeeded"),
        sa.Column("folder", sa.String(length=64), nullable=True),
        sa.Column("report", json, nullable=False, server_default="{}"),
        sa.Column("actor", sa.String(length=120), nullable=False, server_default="service"),
        sa.Column("job_id", number, nullable=True),
        sa.Column("finished", columns.Utc(), nullable=True),
    ):
        op.add_column("evaluations", column)


def downgrade() -> None:
    """Take it back."""
    for name in ("finished", "job_id", "actor", "report", "folder", "state"):
        op.drop_column("evaluations", name)
