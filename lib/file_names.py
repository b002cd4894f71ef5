"""Names that strangers gave to files: kept as names, never followed as paths."""

from __future__ import annotations

import re
import unicodedata

SLUG_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
LONGEST_SLUG = 64
_LONGEST = 200


def plain_name(given: str) -> str:
    """A relative name without `..`, drive or control characters, at most 200 characters from its end on."""
    visible = "".join("_" if unicodedata.category(character)[0] == "C" else character for character in given)
    parts = [part for part in re.split(r"[/\\]", visible) if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(parts)[-_LONGEST:].lstrip("/") or "unnamed"


def slug(given: str, fallback: str) -> str:
    """Lower-case letters, digits and single hyphens; the fallback where nothing of the kind is left."""
    plain = unicodedata.normalize("NFKD", given).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_SLUG].rstrip("-") or fallback
