"""Words of the command line: KEY=VALUE, and what is wrong with settings in a sentence."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError


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


def told(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    sentences = []
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        what = item["msg"].removeprefix("Value error, ")
        sentences.append(f"{where}: {what}" if where else what)
    return "; ".join(sentences)
