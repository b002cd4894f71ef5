"""What pydantic found wrong, in a sentence for people."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError


def in_words(error: ValidationError, name: Callable[[str], str] = str) -> str:
    """`field: what is wrong with it; …`, each field under its `name`."""
    sentences = []
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        what = item["msg"].removeprefix("Value error, ")
        sentences.append(f"{name(where)}: {what}" if where else what)
    return "; ".join(sentences)
