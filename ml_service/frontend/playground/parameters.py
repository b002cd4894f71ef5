"""Generation parameters as the service's own OpenAPI document tells of them, and what people type for them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

COMMON = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop")
"""What most people turn; all else is under "More"."""
_NOT_TYPED = frozenset({"text", "image", "stream", "return_image", "model"})
"""The page has a place of its own for them, or no use."""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
Kind = Literal["integer", "number", "boolean", "string", "strings", "integers", "json"]


@dataclass(frozen=True)
class Parameter:
    """One option of `/forward`."""

    name: str
    kind: Kind
    help: str
    default: Any
    """None where the service has none."""
    limits: str
    """`0 to 10`; empty where there are none."""

    @property
    def default_text(self) -> str:
        """As it stands in its field."""
        return "" if self.default is None else f"{self.default:g}" if self.kind == "number" else str(self.default)

    @property
    def hint(self) -> str:
        """What it does, its limits and what it is when nobody says anything."""
        said = f"Default: {self.default_text or 'none'}" if self.kind != "boolean" else ""
        limits = f"{self.limits[:1].upper()}{self.limits[1:]}" if self.limits else ""
        return " ".join(f"{part.rstrip('.')}." for part in (self.help, limits, said) if part)

    def value_of(self, typed: str | bool) -> Any:
        """What is sent; None where nothing is. Raises ValueError where it is no such thing."""
        if isinstance(typed, bool):
            return None if typed == self.default else typed
        if not typed.strip():
            return None
        value = _READERS[self.kind](typed)
        return None if value == self.default else value


def parameters_of(openapi: Mapping[str, Any]) -> list[Parameter]:
    """Those of `/forward` that can be typed, the common ones first."""
    properties = openapi["components"]["schemas"]["ForwardRequest"]["properties"]
    found = [_parameter(name, schema) for name, schema in properties.items() if name not in _NOT_TYPED]
    rank = {name: number for number, name in enumerate(COMMON)}
    return sorted(found, key=lambda parameter: rank.get(parameter.name, len(rank)))


def can_choose_model(openapi: Mapping[str, Any]) -> bool:
    """Whether `/forward` takes the name of who answers."""
    return "model" in openapi["components"]["schemas"]["ForwardRequest"]["properties"]


def _parameter(name: str, schema: Mapping[str, Any]) -> Parameter:
    own = next((part for part in schema.get("anyOf", ()) if part["type"] != "null"), schema)
    return Parameter(name, _kind(own), schema.get("description", ""), schema.get("default"), _limits(own))


def _kind(schema: Mapping[str, Any]) -> Kind:
    kind = schema.get("type")
    if kind == "array":
        return "integers" if schema.get("items", {}).get("type") == "integer" else "strings"
    return kind if kind in ("integer", "number", "boolean", "string") else "json"


def _limits(schema: Mapping[str, Any]) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    low = f"{_plain(least)}" if least is not None else f"above {_plain(above)}" if above is not None else ""
    # 2^63 tells nobody anything.
    high = f"{_plain(most)}" if most is not None else f"below {_plain(below)}" if below and below < 2**53 else ""
    if low and high:
        return f"{low} to {high}"
    return f"from {low}" if least is not None else low


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def _integer(typed: str) -> int:
    try:
        return int(typed)
    except ValueError:
        raise ValueError("A whole number is wanted.") from None


def _number(typed: str) -> float:
    try:
        value = float(typed.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("A number is wanted.")
    return value


def _integers(typed: str) -> list[int]:
    try:
        return [int(part) for part in re.split(r"[,\s]+", typed.strip()) if part]
    except ValueError:
        raise ValueError("Whole numbers are wanted, with commas between them.") from None


def _strings(typed: str) -> list[str]:
    """One a line, so that a new line in one of them is written `\\n`."""
    lines = [line for line in typed.split("\n") if line]
    return [re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], line) for line in lines]


def _json(typed: str) -> Any:
    try:
        value = json.loads(typed)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ValueError("A JSON object is wanted: {…}.")
    return value


_READERS: Mapping[Kind, Any] = {
    "integer": _integer, "number": _number, "string": lambda typed: typed, "strings": _strings,
    "integers": _integers, "json": _json,
}  # fmt: skip
