"""evaluate."""

from __future__ import annotations

from ml_service.frontend.parts import page_title
from ml_service.frontend.visit import Visit


def build(visit: Visit) -> None:
    """The page."""
    page_title("evaluate")
