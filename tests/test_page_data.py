"""What the data page makes of answers: growth over time, names and fields of an upload, rows of the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ml_service.frontend.charts import SERIES_COLOURS
from ml_service.frontend.datasets.growth import growth, scaled
from ml_service.frontend.datasets.upload import default_name, details
from ml_service.frontend.datasets.versions import version_rows
from ml_service.frontend.uploading import Picked

BEGAN = datetime(2026, 11, 25, 12, tzinfo=UTC)


def a_version(number: int, **sources: int) -> dict[str, Any]:
    amounts = {name: {"records": records, "bytes": records * 100} for name, records in sources.items()}
    whole = sum(sources.values())
    added = {"name": "notes", "accepted": 3, "actor": "tests", "licence": "MIT", "tags": ["a", "b"]}
    return {
        "version": number, "created": (BEGAN + timedelta(hours=number)).isoformat(), "records": whole,
        "bytes": whole * 100, "splits": {"train": {"records": whole, "bytes": whole * 100}}, "sources": amounts,
        "added": added,
    }  # fmt: skip


def test_the_data_set_grows_from_nothing_up_to_now() -> None:
    now = BEGAN + timedelta(hours=3)
    lines = growth([a_version(2, notes=5, code=7), a_version(1, notes=5)], "sources", "records", now)
    assert list(lines) == ["code", "notes"]
    assert [y for _, y in lines["notes"]] == [0, 5, 5, 5]
    assert [y for _, y in lines["code"]] == [0, 0, 7, 7]
    times = [x for x, _ in lines["code"]]
    assert times == sorted(times)
    assert times[-1] == now.timestamp() * 1000


def test_one_version_is_a_step_that_can_be_seen() -> None:
    lines = growth([a_version(1, notes=5)], "splits", "bytes", BEGAN + timedelta(hours=1))
    (first, second, last) = lines["train"]
    assert first[0] is not None and second[0] is not None and last[0] is not None
    assert first[0] < second[0] < last[0]
    assert growth([], "splits", "bytes", BEGAN) == {}


def test_many_sources_are_the_largest_and_the_others() -> None:
    sources = {f"source-{number}": number + 1 for number in range(20)}
    lines = growth([a_version(1, **sources)], "sources", "records", BEGAN)
    assert len(lines) == SERIES_COLOURS
    assert lines["others"][-1][1] == sum(range(1, 16))


def test_bytes_are_told_in_a_unit_that_gives_small_numbers() -> None:
    lines, unit = scaled({"train": [(0, 0.0), (1, 3.0 * (1 << 20))]}, "bytes")
    assert (lines, unit) == ({"train": [(0, 0.0), (1, 3.0)]}, "MiB")
    assert scaled({"train": [(0, 5.0)]}, "records") == ({"train": [(0, 5.0)]}, "")


def test_a_source_is_called_as_the_service_would_call_it() -> None:
    assert default_name(Picked(["My Notes (2).txt", "b.md"], 3)) == "my-notes-2"
    assert default_name(Picked(["???.md"], 3)) == default_name(Picked()) == "texts"


def test_only_what_was_said_is_sent_beside_the_data() -> None:
    assert details("", " ", " , ") == {}
    assert details("notes", "MIT", "a, b,") == {"name": "notes", "licence": "MIT", "tags": "a,b"}


def test_rows_of_versions_are_sorted_by_numbers_and_shown_as_words() -> None:
    (row,) = version_rows([a_version(1, notes=1234)])
    assert (row["records"], row["record_count"]) == ("1,234", 1234)
    assert (row["splits"], row["created"], row["tags"]) == ("train 1.2k", "2026-11-25 13:00", "a, b")
