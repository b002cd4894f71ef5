"""The monitoring files as the tests read them: dashboards, panels, queries, rules and the metrics that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ml_service.common.settings import PROJECT

PROMETHEUS, GRAFANA = PROJECT / "deploy" / "prometheus", PROJECT / "deploy" / "grafana"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_MATCHERS = re.compile(r"\{[^}]*\}")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_WORDS = frozenset({"or", "and", "unless", "bool", "offset", "by", "without", "on", "ignoring"})


@dataclass(frozen=True)
class Query:
    """An expression, and where it stands."""

    place: str
    expr: str


def load(dashboard: Path) -> dict[str, Any]:
    """As Grafana gets it."""
    read: dict[str, Any] = json.loads(dashboard.read_text(encoding="utf-8"))
    return read


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in load(dashboard)["panels"] if panel["type"] != "row"]


def panel_queries() -> Iterator[Query]:
    """Of all dashboards, with their annotations."""
    for dashboard in DASHBOARDS:
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Query(f"{dashboard.stem}: {panel['title']} {target['refId']}", target["expr"])
        for annotation in load(dashboard)["annotations"]["list"]:
            if "target" in annotation:
                yield Query(f"{dashboard.stem}: annotation {annotation['name']}", annotation["target"]["expr"])


def rules() -> list[dict[str, Any]]:
    """Alerts and recorded ones."""
    return [
        rule for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]  # fmt: skip


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Names that rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def metrics_in(expr: str) -> set[str]:
    """Names of series that an expression asks for; functions and labels are none."""
    bare = _GROUPING.sub(" ", _MATCHERS.sub(" ", _STRINGS.sub(" ", expr)))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return {
        found.group() for found in _NAME.finditer(bare)
        if found.group() not in _WORDS
        and not bare[found.end() :].lstrip().startswith("(")
        and not bare[: found.start()][-1:].isdigit()  # 1e6
    }  # fmt: skip


def selectors_in(expr: str) -> set[str]:
    """What an expression asks for, with its matchers."""
    return {
        found.group() for found in re.finditer(r"[a-zA-Z_:][a-zA-Z0-9_:]*\{[^}]*\}", expr)
    }  # fmt: skip


def substituted(expr: str, variables: Mapping[str, str]) -> str:
    """As Grafana sends it."""
    for name, value in variables.items():
        expr = re.sub(rf"\$\{{{name}\}}|\${name}\b", value, expr)
    return expr
