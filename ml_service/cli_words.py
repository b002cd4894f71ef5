"""KEY=VALUE on the command line."""

from __future__ import annotations

import json
from typing import Any


def pair(text: str) -> tuple[str, str]:
    """Raises ValueError where it is none."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


def setting(text: str) -> tuple[str, Any]:
    """A pair whose value is read as JSON where it is some, else as text. Raises ValueError."""
    key, value = pair(text)
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
