"""An intake in a process of its own, `python -m ml_service.pipeline.intake_process BATCH_ID`; it answers in JSON."""

from __future__ import annotations

import json
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

from lib.processes import end_with_parent, run_when_idle
from ml_service.common.errors import ServiceError
from ml_service.common.settings import Settings
from ml_service.data.batch_report import BatchReport, StoredError
from ml_service.data.database import Database
from ml_service.data.version_manifest import VersionManifest
from ml_service.pipeline.intake import Work, take_in
from ml_service.utils.handing_on import in_child
from ml_service.utils.logs import EventLogger
from ml_service.utils.tracing import span, stop_tracing

log = EventLogger("intake")
_MAX_MEMORY_BYTES = 1 << 30
"""Several times what an intake takes. A file that was made to swell ends here and not in the memory of the server."""


def main() -> None:
    """Take a batch in, for the server that started us; end when it does."""
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    above = in_child()
    batch_id, settings, error = int(sys.argv[1]), Settings(), None
    database = Database(settings.database_address, settings.store, settings.database_timeout_s)
    log.info("intake.began", batch=batch_id)
    try:
        with span("read upload", handed=above, ml_service__batch=batch_id):
            take_in(database, settings.store, batch_id, apart=_when_idle)
    except ServiceError as raised:
        error = StoredError.of(raised).model_dump()
    finally:
        database.close()
    log.info("intake.ended", batch=batch_id, error=error and error["kind"])
    stop_tracing()
    print(json.dumps({"batch_id": batch_id, "error": error}))


def _when_idle(work: Work) -> tuple[BatchReport, VersionManifest | None]:
    with ThreadPoolExecutor(1, "intake", run_when_idle) as pool:
        return pool.submit(work).result()


if __name__ == "__main__":
    main()
