"""Where a model comes from and where it went, as a small graph: data and parents, the experiment, its deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nicegui import ui

from ml_service.frontend.parts import attribute, text

WIDTH, HEIGHT = 190, 48
_GAP_X, _GAP_Y, _EDGE = 52, 16, 4
_MOST_PARENTS, _MOST_DEPLOYMENTS = 3, 4
_TITLE_LETTERS, _HINT_LETTERS = 20, 23


@dataclass(frozen=True)
class Node:
    """A box in a column and a row; rows may be halves."""

    title: str
    hint: str
    column: int
    row: float
    address: str | None = None
    kind: str = ""

    @property
    def x(self) -> float:
        """Its left edge."""
        return _EDGE + self.column * (WIDTH + _GAP_X)

    @property
    def y(self) -> float:
        """Its upper edge."""
        return _EDGE + self.row * (HEIGHT + _GAP_Y)


@dataclass(frozen=True)
class Graph:
    """Boxes, and which leads to which."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[Node, Node], ...]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        right = max(node.x for node in self.nodes) + WIDTH + _EDGE
        return right, max(node.y for node in self.nodes) + HEIGHT + _EDGE


def graph_of(account: Mapping[str, Any]) -> Graph:
    """Parents from the left, the oldest first, with the data below them; deployments to the right, the latest first."""
    lineage = account["lineage"]
    parents, sources = _parents(lineage["parents"]), _sources(lineage)
    before = max(len(parents), 1 if sources else 0)
    first_row = 1 if parents else 0
    data = [
        Node(title, hint, before - 1, first_row + place, address, "data")
        for place, (title, hint, address) in enumerate(sources)
    ]
    deployments = _deployments(lineage["deployments"], before + 1)
    row = 0.0 if parents else max(len(data) - 1, 0) / 2
    own = Node(account["name"], f"#{account['experiment_id']}, this one", before, row, None, "own")
    edges = [
        *pairwise([*parents, own]),
        *((each, own) for each in data),
        *((own, each) for each in deployments),
    ]
    return Graph((*parents, *data, own, *deployments), tuple(edges))


def draw(graph: Graph) -> None:
    """Boxes that lead somewhere are links."""
    width, height = graph.size
    with ui.element("div").classes("scroll"), ui.element("svg").classes("lineage") as picture:
        picture.props(f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"')
        picture.props('role="group" aria-label="Lineage"')
        for start, end in graph.edges:
            ui.element("path").props(f'd="{_curve(start, end)}" class="lineage-edge" aria-hidden="true"')
            ui.element("path").props(f'd="{_tip(end)}" class="lineage-tip" aria-hidden="true"')
        for node in graph.nodes:
            _draw_node(node)


def _draw_node(node: Node) -> None:
    with ui.element("a" if node.address else "g").classes(f"lineage-node {node.kind}") as place:
        attribute(place, "href", node.address)
        attribute(place, "aria-label", f"{node.title}: {node.hint}")
        text("title", f"{node.title}: {node.hint}")
        ui.element("rect").props(f'x="{node.x:g}" y="{node.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"')
        title = text("text", shortened(node.title, _TITLE_LETTERS), "lineage-title")
        title.props(f'x="{node.x + 12:g}" y="{node.y + 20:g}"')
        hint = text("text", shortened(node.hint, _HINT_LETTERS), "lineage-hint")
        hint.props(f'x="{node.x + 12:g}" y="{node.y + 37:g}"')


def shortened(words: str, letters: int) -> str:
    """As much as a box has room for."""
    return words if len(words) <= letters else words[: letters - 1].rstrip() + "…"


def _parents(parents: list[Mapping[str, Any]]) -> list[Node]:
    shown, older = parents[:_MOST_PARENTS], parents[_MOST_PARENTS:]
    told = [(each["name"], f"#{each['experiment_id']}, {each['kind']}", each) for each in reversed(shown)]
    if older:
        told.insert(0, (f"{len(older)} before", f"from #{older[-1]['experiment_id']} on", older[0]))
    return [
        Node(title, hint, column, 0, f"/ui/experiments/{each['experiment_id']}")
        for column, (title, hint, each) in enumerate(told)
    ]


def _sources(lineage: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    found: list[tuple[str, str, str | None]] = []
    if lineage["dataset"] is not None:
        version = lineage["dataset"]["version"]
        found.append((f"Data version {version}", lineage["dataset"]["fingerprint"][:12], f"/ui/data?version={version}"))
    return found + [(corpus, "other text", None) for corpus in lineage["corpora"]]


def _deployments(deployments: list[Mapping[str, Any]], column: int) -> list[Node]:
    latest = list(reversed(deployments))
    shown = latest[: _MOST_DEPLOYMENTS - (len(latest) > _MOST_DEPLOYMENTS)]
    nodes = [
        Node(
            f"Deployment {each['generation']}" if each["generation"] is not None else "Deployment",
            f"{each['strategy']}, {each['state']}", column, row, "/ui/deployments",
            "live" if each["state"] in ("active", "shadow", "canary") else "",
        )
        for row, each in enumerate(shown)
    ]  # fmt: skip
    if len(latest) > len(shown):
        nodes.append(Node(f"{len(latest) - len(shown)} more", "in the history", column, len(shown), "/ui/deployments"))
    return nodes


def _curve(start: Node, end: Node) -> str:
    x1, y1 = start.x + WIDTH, start.y + HEIGHT / 2
    x2, y2 = end.x - 6, end.y + HEIGHT / 2
    bend = (x2 - x1) / 2
    return f"M {x1:g} {y1:g} C {x1 + bend:g} {y1:g}, {x2 - bend:g} {y2:g}, {x2:g} {y2:g}"


def _tip(end: Node) -> str:
    x, y = end.x - 1, end.y + HEIGHT / 2
    return f"M {x:g} {y:g} l -8 -4.5 v 9 z"
