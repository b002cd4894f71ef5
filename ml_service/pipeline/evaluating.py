"""An evaluation as a job: the judging process, its progress on the way, its report remembered; a client's question."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from lib.files import remove_tree, sha256_of_text, write_json
from ml_service.common.errors import ServiceError, Unavailable
from ml_service.common.evaluation_options import EvaluationOptions
from ml_service.common.settings import Settings
from ml_service.data.batch_report import StoredError
from ml_service.data.database import Database, now
from ml_service.data.evaluations import Asked, Evaluations, Standing
from ml_service.data.experiments import Experiments
from ml_service.data.jobs import Jobs
from ml_service.data.staging import ReceivedFile
from ml_service.inference.image_reader import READER_ENVIRONMENT
from ml_service.pipeline.job_outcome import Cancelled, GivenBack
from ml_service.pipeline.judging.question import PROGRESS_FILE, QUESTION_FILE, REPORT_FILE, ROWS_FILE
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.stage_process import LOG_FILE, StageInterrupted, run_watched
from ml_service.utils.handing_on import for_child
from ml_service.utils.tracing import span

FOLDER = "evaluations"
_AS_SERVED = {
    "runtime", "compiled_operators", "cache_precision", "threads", "context", "max_image_pixels",
}  # fmt: skip
"""Settings of the server that are the judging engine's, too."""
_LONGEST_NAME = 120
_UNKNOWN_FOR_S = 86_400.0
"""After which a folder is one of a server that was killed while it was asked."""
_GRACE_S = 5.0


class Evaluator:
    """Questions to the models of a store."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._evaluations = Evaluations(database)
        self._experiments = Experiments(database, settings.store)

    def ask(
        self, experiment_id: int, options: EvaluationOptions, file: ReceivedFile, actor: str
    ) -> tuple[Standing, bool]:
        """Put a question; whether it is new. The file is taken: it lies on the store's file system.

        Raises NotFound, Conflict where the experiment has no bundle.
        """
        stored = self._experiments.bundle_of(experiment_id)
        said = options.model_dump_json(include=set(EvaluationOptions.model_fields), exclude_defaults=True)
        path = Path(file.path)
        data_sha256 = sha256_of_text(f"{file.sha256} {path.suffix} {said}")
        folder = self._settings.store / FOLDER / secrets.token_hex(8)
        folder.mkdir(parents=True)
        path.rename(folder / f"data{path.suffix}")
        write_json(folder / QUESTION_FILE, {"file": f"data{path.suffix}", "options": json.loads(said)})
        asked = Asked(experiment_id, stored.sha256, data_sha256, file.name[-_LONGEST_NAME:], folder.name, actor)
        is_new = False
        try:
            standing, is_new = self._evaluations.ask(asked)
        finally:
            if not is_new:  # it was asked before, or the database is away
                shutil.rmtree(folder, ignore_errors=True)
        return standing, is_new

    def cancel(self, evaluation_id: int, actor: str) -> str:
        """Stop it; the state that follows. Raises NotFound, Conflict where it is over."""
        state = self._evaluations.cancel(evaluation_id, actor)
        folder = self._evaluations.standing(evaluation_id).evaluation.folder
        if state == "cancelled" and folder is not None:  # nobody had begun: whoever has removes it
            shutil.rmtree(self._settings.store / FOLDER / folder, ignore_errors=True)
        return state

    def rows_file(self, standing: Standing) -> Path | None:
        """The table of its rows, where it is kept."""
        folder = standing.evaluation.folder
        path = self._settings.store / FOLDER / folder / ROWS_FILE if folder is not None else None
        return path if path is not None and path.is_file() else None


def run_evaluation(database: Database, settings: Settings, jobs: Jobs, lease: Lease, niceness: int = 0) -> None:
    """Do a claimed job. Raises GivenBack, Cancelled, LeaseLost, and what judging raises."""
    evaluations, experiments = Evaluations(database), Experiments(database, settings.store)
    evaluation = evaluations.standing(lease.claim.payload["evaluation_id"]).evaluation
    assert evaluation.folder is not None and evaluation.experiment_id is not None, "it was asked so"
    folder = settings.store / FOLDER / evaluation.folder
    try:
        bundle = experiments.bundle_of(evaluation.experiment_id).path.resolve()
        _complete_question(folder, bundle, settings)
        _run(folder, settings, lease, niceness)
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        if (error := report.get("error")) is not None:
            raise StoredError.model_validate(error).as_error()
    except Unavailable:  # the database is away: another attempt finds everything where it is
        raise
    except ServiceError as error:
        failed = {"error": StoredError.of(error).model_dump()}
        lease.persist(lambda session: evaluations.finish(session, evaluation.id, "failed", failed))
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except Cancelled:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def write(session: Session) -> None:
        evaluations.finish(session, evaluation.id, "succeeded", report)
        jobs.end(session, lease.claim, "succeeded")

    lease.persist(write)
    for name in (json.loads((folder / QUESTION_FILE).read_text())["file"], PROGRESS_FILE):
        (folder / name).unlink(missing_ok=True)  # the rows are kept, not the data


def forget_evaluations(database: Database, settings: Settings) -> int:
    """Remove the tables of those that were asked long ago, and what nobody knows of; how many bytes that freed."""
    evaluations, folders = Evaluations(database), settings.store / FOLDER
    gone = [folders / name for name in evaluations.forget_folders(now() - timedelta(days=settings.retention_days))]
    known = evaluations.folders()
    for path in folders.glob("*"):
        is_old = now().timestamp() - path.stat().st_mtime > _UNKNOWN_FOR_S
        gone += [path] if path.name not in known and is_old else []
    return sum(remove_tree(path) for path in gone)


def _complete_question(folder: Path, bundle: Path, settings: Settings) -> None:
    question = json.loads((folder / QUESTION_FILE).read_text(encoding="utf-8"))
    served = settings.model_dump(mode="json", include=_AS_SERVED)
    write_json(folder / QUESTION_FILE, question | {"bundle": str(bundle), "settings": served})


def _run(folder: Path, settings: Settings, lease: Lease, niceness: int) -> None:
    for left in folder.glob(".*"):  # what a process that was killed had begun
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    command = [sys.executable, "-m", "ml_service.pipeline.judging.process", str(folder), str(niceness)]
    own = {"OMP_NUM_THREADS": str(settings.threads), "TOKENIZERS_PARALLELISM": "false"}
    environment = os.environ | own | READER_ENVIRONMENT | for_child("judge")

    def watch() -> bool:
        with suppress(FileNotFoundError):
            lease.progress |= json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        lease.beat()
        return lease.stop.is_set() or lease.is_cancelled

    try:
        with span("stage judge"):
            run_watched(command, folder / LOG_FILE, environment, watch, _GRACE_S)
    except StageInterrupted:
        raise (Cancelled if lease.is_cancelled else GivenBack) from None
