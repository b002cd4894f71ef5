"""What a killed intake left behind: found by its lock, which died with it, and removed."""

from __future__ import annotations

from pathlib import Path

from ml_service.data import staging
from ml_service.data.batch_report import INTERRUPTED
from ml_service.data.batches import Batches
from ml_service.data.database import Database


def sweep(database: Database, store: Path) -> int:
    """Reject the batches and remove the folders of which nobody is left; how many there were.

    Called at the start of the service and of every intake. Who is at work is never disturbed.
    """
    batches, swept = Batches(database, store), 0
    abandoned = {batch.report["staging"]: batch.id for batch in batches.unfinished()}
    for token in {*abandoned, *staging.tokens(store)}:
        folder = staging.seize(store, token)
        if folder is None:
            continue
        # The files go first: should we be killed here, the batch is still found the next time.
        if token in abandoned:
            batches.reject(abandoned[token], INTERRUPTED.model_dump(), keeps_key=False)
        folder.remove()
        swept += 1
    return swept
