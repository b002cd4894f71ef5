"""The schema's history (Alembic), for both databases."""
