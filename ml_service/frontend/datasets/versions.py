"""The versions of the data set: a table of all, and all that is known of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ml_service.frontend import words
from ml_service.frontend.api import ApiError
from ml_service.frontend.datasets.report import show_report
from ml_service.frontend.parts import button, dialog, pairs, text
from ml_service.frontend.regions import failed, loading
from ml_service.frontend.tables import Column, Table
from ml_service.frontend.visit import Visit

_COLUMNS = (
    Column("version", "Version"),
    Column("source", "Added"),
    Column("accepted", "New records", is_right=True, sort_by="accepted_count"),
    Column("records", "Records", is_right=True, sort_by="record_count"),
    Column("size", "Size", is_right=True, sort_by="bytes"),
    Column("splits", "Splits"),
    Column("sources", "Sources", is_right=True),
    Column("created", "When (UTC)"),
    Column("actor", "By"),
    Column("licence", "Licence"),
    Column("tags", "Tags"),
)
_COUNTS = (
    Column("split", "Split"),
    Column("source", "Source"),
    Column("records", "Records", is_right=True, sort_by="record_count"),
    Column("size", "Size", is_right=True, sort_by="bytes"),
)
_FILES = (Column("name", "File"), *_COUNTS, Column("sha256", "SHA-256", classes="mono"))


def version_table(visit: Visit, datasets: Sequence[Mapping[str, Any]]) -> Table:
    """All versions, newest first."""
    table = Table("Versions", _COLUMNS, version_rows(datasets), is_tight=True)
    table.link("version", "/ui/data?version=", lambda version: show_version(visit, int(version)))
    return table


async def show_version(visit: Visit, version: int) -> None:
    """All that is known of a version, in a dialog."""
    with dialog(f"Version {version}") as box:
        box.default_slot.children[0].classes("wide")
        with ui.element("div").classes("stack full") as place:
            loading(6)
        with ui.element("div").classes("dialog-actions"):
            button("Close", box.close)
            train_on(version)
    try:
        detail = await visit.api.get(f"/datasets/{version}")
    except ApiError as error:
        place.clear()
        with place:
            failed(error)
        return
    if not place.is_deleted:
        place.clear()
        with place:
            _detail(detail)


def train_on(version: int) -> ui.button:
    """The next step: to the page of experiments, with its dialog open."""
    return button("Train on it", icon="science", kind="primary").props(f'href="/ui/experiments?train={version}"')


def version_rows(datasets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As the table shows what `GET /datasets` tells."""
    return [
        _amount(each) | {
            "version": each["version"], "source": each["added"]["name"], "sources": len(each["sources"]),
            "accepted": words.number(each["added"]["accepted"]), "accepted_count": each["added"]["accepted"],
            "splits": " · ".join(f"{name} {words.count(amount['records'])}" for name, amount in each["splits"].items()),
            "created": words.clock(each["created"])[:16], "actor": each["added"]["actor"],
            "licence": each["added"]["licence"], "tags": ", ".join(each["added"]["tags"]),
        }
        for each in datasets
    ]  # fmt: skip


def _amount(amount: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "records": words.number(amount["records"]), "record_count": amount["records"],
        "size": words.size(amount["bytes"]), "bytes": amount["bytes"],
    }  # fmt: skip


def _detail(detail: Mapping[str, Any]) -> None:
    added = detail["added"]
    pairs(
        {
            "Records": f"{words.number(detail['records'])} ({words.size(detail['bytes'])} of text)",
            "Fingerprint": detail["fingerprint"],
            "Made": f"{words.clock(detail['created'])} by {added['actor']}",
            "Upload": f"{added['name']}, {words.size(added['size_bytes'])} (batch {added['id']})",
            "Licence": added["licence"],
            "Tags": ", ".join(added["tags"]) or words.NOTHING,
        }
    )
    text("h3", "What is in it")
    counts = [
        {"split": split, "source": source} | _amount(amount)
        for split, sources in detail["counts"].items()
        for source, amount in sources.items()
    ]
    Table("What is in it", _COUNTS, counts, is_tight=True)
    text("h3", "The upload that made it")
    show_report(detail["report"])
    with ui.expansion(f"Files of the version ({len(detail['shards'])})").classes("full").props("dense"):
        Table("Files", _FILES, [each | _amount(each) for each in detail["shards"]], is_tight=True)
