"""A key may have a rate of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    op.add_column("api_keys", sa.Column("rate", sa.String(length=32), nullable=True))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("api_keys", "rate")
