"""experiments."""

from __future__ import annotations

from ml_service.frontend.parts import page_title
from ml_service.frontend.visit import Visit


def build(visit: Visit) -> None:
    """The page."""
    page_title("experiments")


def build_one(visit: Visit) -> None:
    """The page."""
    page_title("experiment")


def build_comparison(visit: Visit) -> None:
    """The page."""
    page_title("comparison")
