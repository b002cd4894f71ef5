"""Whether an answer has the shape of the one that a page shows: the same names, the same kinds of values."""

from __future__ import annotations

import json
from typing import Any

LEFT_OUT = "…"
"""A name that stands for names which are not shown."""


def values_in(output: str) -> list[Any]:
    """The JSON values that a command printed one after the other; lines that are none are passed over."""
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(output):
        starts = [place for place in (output.find("{", at), output.find("[", at)) if place >= 0]
        if not starts:
            break
        try:
            value, at = decoder.raw_decode(output, min(starts))
        except json.JSONDecodeError:
            at = min(starts) + 1
        else:
            values.append(value)
    return values


def differences(shown: Any, real: Any, where: str = "$") -> list[str]:
    """How the real answer is not what is shown, a sentence each.

    Of lists the first items stand for all; what is null in one may be anything in the other.
    """
    if isinstance(shown, dict) and isinstance(real, dict):
        return _of_objects(shown, real, where)
    if isinstance(shown, list) and isinstance(real, list):
        if not shown or not real:
            return []
        return differences(shown[0], real[0], f"{where}[0]")
    if None in (shown, real) or _kind(shown) == _kind(real):
        return []
    return [f"{where} is shown as {shown!r} and is {real!r}"]


def _of_objects(shown: dict[str, Any], real: dict[str, Any], where: str) -> list[str]:
    found = [f"{where}.{name} is shown and is not there" for name in shown.keys() - real.keys() - {LEFT_OUT}]
    if LEFT_OUT not in shown:
        found += [f"{where}.{name} is there and is not shown" for name in real.keys() - shown.keys()]
    for name in shown.keys() & real.keys():
        found += differences(shown[name], real[name], f"{where}.{name}")
    return found


def _kind(value: Any) -> str:
    """Whole or not, numbers are numbers."""
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__
