"""Promise 7: requests made from the OpenAPI document, garbage on the wire and broken files; no 5xx, no hang."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.fuzz_document import PATIENCE_S, Tried, try_document
from tests.chaos.fuzz_service import KEY, Service
from tests.chaos.report import Report, parser_of
from tests.databases import Cluster

MOST_GROWTH_MIB = 400.0
_EXAMPLES, _FEW_EXAMPLES = 500, 4
"""Drawn at random for each operation; some thousand of the schemas' edges come beside them."""


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--examples", type=int, help=f"cases drawn for each operation, {_EXAMPLES} by default")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    examples = arguments.examples or (_FEW_EXAMPLES if arguments.quick else _EXAMPLES)
    report = Report("fuzz", is_quick=arguments.quick)
    statuses: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "sqlite")
        with service.running():
            before = service.resident_mib
            tried = try_document(service.url, KEY, examples, arguments.seed, whole=not arguments.quick)
            _tell(report, "SQLite", tried, statuses)
            _look_after(report, service, before)
        cluster = Cluster()
        try:
            service = Service(Path(folder) / "postgresql", cluster.create())
            with service.running():
                before = service.resident_mib
                tried = try_document(service.url, KEY, max(examples // 10, 1), arguments.seed + 1, whole=False)
                _tell(report, "PostgreSQL", tried, statuses)
                _look_after(report, service, before)
        finally:
            cluster.close()
    report.figure("statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items())))
    report.finish()


def _tell(report: Report, database: str, tried: Tried, statuses: Counter[str]) -> None:
    for operation, counts in sorted(tried.statuses.items()):
        told = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
        print(f"  {operation:<50} {counts.total():>6}  {told}", flush=True)
        statuses.update(counts)
    report.figure(f"cases from the document, {database}", f"{tried.cases:,} over {len(tried.statuses)} operations")
    report.figure(f"slowest answer, {database}", f"{tried.slowest_s:.1f} s ({tried.slowest})")
    report.expect(tried.slowest_s < PATIENCE_S, f"{tried.slowest} took {tried.slowest_s:.1f} s")
    for what, how in sorted(tried.failures.items()):
        report.expect(False, what)
        print(f"    {how[:1000]}".replace("\n", "\n    "), flush=True)


def _look_after(report: Report, service: Service, before_mib: float) -> None:
    time.sleep(1.0)  # what was cut off ends within a step
    for trouble in service.troubles():
        report.expect(False, trouble)
    report.figure(
        f"memory, {service.store.parent.name}", f"{before_mib:.0f} MiB before, {service.most_mib:.0f} at most"
    )
    report.expect(service.most_mib - before_mib < MOST_GROWTH_MIB, f"memory grew to {service.most_mib:.0f} MiB")


if __name__ == "__main__":
    main()
