"""A report of measurements: a table for the terminal; `report.json`, `requests.csv` and `report.png` for later."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.files import staged
from ml_service.pipeline.load.outcomes import Distribution, Measurement, Outcome, Summary, summarise
from ml_service.pipeline.load.plot import Caption, draw_measurements
from ml_service.pipeline.load.workload import Workload

FILES = JSON_FILE, CSV_FILE, PLOT_FILE = "report.json", "requests.csv", "report.png"
_LABEL_WIDTH, _COLUMN_WIDTH = 27, 10
_COLUMNS = (
    "load", "index", "started_s", "first_token_ms", "mean_inter_token_ms", "end_to_end_ms",
    "prompt_tokens", "cached_tokens", "completion_tokens", "failure",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Who was asked what, and all that was measured, a measurement a load."""

    target: str
    workload: Workload
    measurements: list[Measurement]
    date: str
    client: dict[str, str | int]
    """The machine that asked."""

    @property
    def footnote(self) -> str:
        """When and from where it was asked."""
        return f"{self.date} · asked from {self.client['cores']} cores ({self.client['machine']})"

    @property
    def failed(self) -> int:
        """Requests that failed, of all measurements."""
        return sum(summary.failed for summary in self.summaries())

    def summaries(self) -> list[Summary]:
        """One a measurement."""
        return [summarise(measurement) for measurement in self.measurements]


def table(report: Report) -> str:
    """A column a load, a row a figure; the rows of a stream are left out where nothing was streamed."""
    summaries = report.summaries()
    lines = [f"{report.target}: {report.workload}", ""]
    lines.append(_row("arrivals" if summaries[0].concurrency is None else "concurrency", map(_load_of, summaries)))
    for label, figure in _FIGURES:
        lines.append(_row(label, map(figure, summaries)))
    for label, of in _DISTRIBUTIONS:
        lines += _rows_of_distribution(label, [of(summary) for summary in summaries])
    for summary in summaries:
        if summary.failures:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary.failures.items())
            lines.append(f"failed at {_load_of(summary)}: {reasons}")
    if any(summary.is_interrupted for summary in summaries):
        lines.append("interrupted: requests that were under way are left out")
    return "\n".join(lines)


def write_report(report: Report, directory: Path) -> None:
    """`report.json`, `requests.csv` and `report.png`, each written whole; older ones are replaced."""
    with staged(directory / JSON_FILE) as temporary:
        measurements = [asdict(summary) for summary in report.summaries()]
        facts = {name: getattr(report, name) for name in ("target", "date", "client")}
        content = facts | {"workload": asdict(report.workload), "measurements": measurements}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with staged(directory / CSV_FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for measurement in report.measurements:
            writer.writerows([str(measurement.load), *_cells(outcome)] for outcome in measurement.outcomes)
    with staged(directory / PLOT_FILE) as temporary:
        draw_measurements(report.measurements, Caption(report.target, str(report.workload), report.footnote), temporary)


_FIGURES: Sequence[tuple[str, Callable[[Summary], str]]] = (
    ("requests", lambda summary: f"{summary.requests:,}"),
    ("failed", lambda summary: f"{summary.failed:,}"),
    ("seconds", lambda summary: f"{summary.seconds:,.2f}"),
    ("prompt tokens", lambda summary: f"{summary.prompt_tokens:,}"),
    ("of these from a cache", lambda summary: f"{summary.cached_tokens:,}"),
    ("new tokens", lambda summary: f"{summary.completion_tokens:,}"),
    ("requests/s", lambda summary: f"{summary.requests_per_second:,.2f}"),
    ("new tokens/s", lambda summary: f"{summary.tokens_per_second:,.1f}"),
    ("this client, cores", lambda summary: f"{summary.client_cpu_share:.2f}"),
)
_DISTRIBUTIONS: Sequence[tuple[str, Callable[[Summary], Distribution | None]]] = (
    ("first token, ms", lambda summary: summary.first_token_ms),
    ("between tokens, ms", lambda summary: summary.inter_token_ms),
    ("end to end, ms", lambda summary: summary.end_to_end_ms),
)


def _load_of(summary: Summary) -> str:
    return f"{summary.rate:g}/s" if summary.concurrency is None else f"{summary.concurrency}"


def _row(label: str, cells: Iterable[str]) -> str:
    return f"{label:<{_LABEL_WIDTH}}" + "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in cells)


def _cells(outcome: Outcome) -> list[object]:
    gaps_s = outcome.gaps_s()
    return [
        outcome.index,
        round(outcome.started_s, 6),
        _milliseconds(outcome.first_token_s),
        _milliseconds(sum(gaps_s) / len(gaps_s) if gaps_s else None),
        _milliseconds(outcome.end_to_end_s),
        outcome.prompt_tokens,
        outcome.cached_tokens,
        outcome.completion_tokens,
        outcome.failure or "",
    ]


def _rows_of_distribution(label: str, distributions: Sequence[Distribution | None]) -> list[str]:
    if not any(distributions):
        return []
    rows = []
    for name in ("mean", "p50", "p90", "p99"):
        cells = [f"{getattr(distribution, name):,.2f}" if distribution else "" for distribution in distributions]
        rows.append(_row(f"{label:<20}{name:>6}", cells))
    return rows


def _milliseconds(seconds: float | None) -> float | str:
    return "" if seconds is None else round(seconds * 1e3, 3)
