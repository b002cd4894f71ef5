"""The table of the last results as the README has it: `python -m tests.chaos.table`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_service.common.settings import PROJECT
from tests.chaos.promises import PROMISES, Promise
from tests.chaos.report import RESULTS

KEPT = PROJECT / "tests" / "chaos" / "results"


def table() -> str:
    """One row a promise, of `build/chaos`; what was not measured is named."""
    results = _results()
    head = ["| | promise | what was done, and seen | holds | script |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row(promise, results.get(promise.script)) for promise in PROMISES)])


def row(promise: Promise, result: Mapping[str, Any] | None) -> str:
    """A promise and what its script kept."""
    script = f"`tests.chaos.{promise.script}`"
    if result is None:
        return f"| {promise.number} | {promise.sentence} | not measured | | {script} |"
    figures = "; ".join(f"{what}: {value}" for what, value in result["figures"].items())
    holds = "no: " + "; ".join(result["broken"]) if result["broken"] else "yes"
    measured = f"{script}, {result['date'][:10]}{', quick' if result['is_quick'] else ''}, {result['seconds']} s"
    return f"| {promise.number} | {promise.sentence} | {figures} | {holds} | {measured} |"


def keep() -> Path:
    """Write the results down for good, under the day of the newest; where."""
    results = _results()
    day = max((result["date"][:10] for result in results.values()), default="none")
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{day}.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    path = KEPT / f"{day}.md"
    path.write_text(f"# Promises under attack, {day}\n\n{table()}\n", encoding="utf-8")
    return path


def _results() -> dict[str, dict[str, Any]]:
    files = {promise.script: RESULTS / f"{promise.script}.json" for promise in PROMISES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


if __name__ == "__main__":
    print(table())
