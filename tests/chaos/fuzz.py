"""Promise 7: requests made from the OpenAPI document, garbage on the wire and broken files; no 5xx, no hang."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.chaos.fuzz_document import Tried, try_document
from tests.chaos.fuzz_files import try_files
from tests.chaos.fuzz_service import KEY, Service
from tests.chaos.fuzz_values import try_values
from tests.chaos.fuzz_wire import try_wire
from tests.chaos.report import Report, parser_of
from tests.databases import Cluster

MOST_GROWTH_MIB = 400.0
_EXAMPLES, _FEW_EXAMPLES = 700, 4
"""Drawn at random for each operation; some thousand of the schemas' edges come beside them."""


def main() -> None:
    """Print the figures; exit with 1 where the promise is broken."""
    parser = parser_of(__doc__)
    parser.add_argument("--examples", type=int, help=f"cases drawn for each operation, {_EXAMPLES} by default")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    is_quick, seed = arguments.quick, arguments.seed
    examples = arguments.examples or (_FEW_EXAMPLES if is_quick else _EXAMPLES)
    report, statuses = Report("fuzz", is_quick=is_quick), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "SQLite")
        with _watched(report, service):
            tell = partial(_tell, report, statuses)
            tell("cases from the document", try_document(service.url, KEY, examples, seed, whole=not is_quick))
            tell("values in bodies", try_values(service.client, 97 if is_quick else 1))
            tell("garbage on the wire", try_wire(service.port, KEY, seed, 20 if is_quick else 2_000))
            tell("broken files", try_files(service.client, 1 if is_quick else 50, whole=not is_quick))
        with _postgresql() as url:
            service = Service(Path(folder) / "PostgreSQL", url)
            with _watched(report, service):
                few = max(examples // 10, 1)
                tell("the same on PostgreSQL", try_document(service.url, KEY, few, seed + 1, whole=False))
                tell("values on PostgreSQL", try_values(service.client, 97 if is_quick else 3))
                tell("broken files on PostgreSQL", try_files(service.client, 0, whole=False))
    report.figure("statuses", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items())))
    report.finish()


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    cluster = Cluster()
    try:
        yield cluster.create()
    finally:
        cluster.close()


@contextlib.contextmanager
def _watched(report: Report, service: Service) -> Iterator[None]:
    """Look at the service when it has been through all of the block."""
    with service.running():
        before_mib = service.resident_mib
        yield
        time.sleep(1.0)  # what was cut off ends within a step
        for trouble in service.troubles():
            report.expect(False, trouble)
        told = f"{before_mib:.0f} MiB before, {service.most_mib:.0f} at most"
        report.figure(f"memory of the server, {service.store.parent.name}", told)
        report.expect(service.most_mib - before_mib < MOST_GROWTH_MIB, f"memory grew: {told}")


def _tell(report: Report, statuses: Counter[str], kind: str, tried: Tried) -> None:
    for operation, counts in sorted(tried.statuses.items()):
        told = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))
        print(f"  {operation:<50} {counts.total():>6}  {told}", flush=True)
        statuses.update(counts)
    slowest = f"the slowest {tried.slowest_s:.1f} s ({tried.slowest})"
    report.figure(kind, f"{tried.cases:,}, over {len(tried.statuses)} operations or kinds; {slowest}")
    for what, how in sorted(tried.failures.items()):
        report.expect(False, what)
        print(f"    {how[:1000]}".replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    main()
