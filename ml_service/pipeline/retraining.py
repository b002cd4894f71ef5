"""A retraining, as a worker does it: parameters, stages as processes, progress on the way, scores and the verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy.orm import Session

from lib.files import sha256_of_file, sha256_of_text, staged
from lib.processes import training_processes
from lib.token_shards import MANIFEST_FILE as DATASET_FILE
from lib.token_shards import load_manifest as load_dataset
from ml_service.common.bundle import MANIFEST_FILE, bundle_sha256
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.datasets import Datasets
from ml_service.data.evaluations import Evaluations
from ml_service.data.experiments import BUNDLE, SAMPLES, Experiments
from ml_service.data.jobs import REACHED, Jobs
from ml_service.data.series import Series
from ml_service.data.tables import Experiment
from ml_service.pipeline import layout
from ml_service.pipeline.curves import News, ProgressFollower
from ml_service.pipeline.gate import DeployIf, Verdict, judge
from ml_service.pipeline.job_outcome import Cancelled, GivenBack
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.recipe import stage_parameters
from ml_service.pipeline.stage_process import LOG_FILE, PARAMETERS_FILE, StageInterrupted, run_stage_process
from ml_service.training.plan import PLAN_FILE
from ml_service.training.run_files import MODEL_DIRECTORY, PROGRESS_FILE, STOP_FILE, WEIGHTS_FILE, load_facts
from ml_service.utils.tracing import span

DEPLOY = "deploy"
_PHASES = ("extract", "train", "export", "evaluate")


class Retraining:
    """One attempt at a retraining. What earlier attempts finished is not done again."""

    def __init__(self, database: Database, settings: Settings, jobs: Jobs, lease: Lease) -> None:
        store = settings.store
        experiment_id = lease.claim.experiment_id
        assert experiment_id is not None, "a retraining is an experiment's"
        self._jobs, self._lease, self._settings = jobs, lease, settings
        self._experiments, self._datasets = Experiments(database, store), Datasets(database, store)
        self._series, self._evaluations = Series(database), Evaluations(database)
        self._experiment = self._experiments.get(experiment_id)
        self._directory = self._experiments.directory(experiment_id)
        self._run, self._bundle = self._directory / layout.RUN, self._directory / layout.BUNDLE
        self._follower = ProgressFollower(self._run / PROGRESS_FILE)

    def run(self) -> Verdict | None:
        """Do what is left to do; the gate's verdict where one was asked for.

        Raises GivenBack, Cancelled, LeaseLost, and what a stage raises.
        """
        self._clear_staging()
        self._write_parameters()
        if not (self._directory / layout.DATA / DATASET_FILE).is_file():
            self._stage("extract", "extract_data")
        if not (self._bundle / MANIFEST_FILE).is_file():
            self._stage("train", "train_model")
        self._stage("evaluate", "inference_model")
        return self._conclude()

    def _stage(self, phase: str, name: str) -> None:
        self._set_phase(phase)
        shares = phase == "train" and self._experiment.plan["wish"]["strategy"] != "single"
        processes = training_processes() if shares else 1
        try:
            threads = max(self._settings.training_threads // processes, 1)
            grace_s = self._settings.drain_timeout_s
            with span(f"stage {phase}", ml_service__processes=processes):
                run_stage_process(name, self._directory, threads, processes, self._watch, grace_s)
        except StageInterrupted:
            if self._lease.is_cancelled and phase == "extract":
                raise Cancelled from None
            raise GivenBack from None
        self._watch()

    def _watch(self) -> bool:
        """Copy the curve, keep the lease, hear of wishes; whether the stage should be asked to end."""
        phase = self._lease.progress.get("phase")
        if phase == "train" and (self._run / MODEL_DIRECTORY).is_dir():
            self._set_phase("export")
        news = self._follower.look()
        if news.points or news.begins_anew:
            self._copy(news)
        self._lease.beat()
        if self._lease.is_cancelled and phase == "train":
            (self._run / STOP_FILE).touch()  # it ends with what it has learned by now
        return self._lease.stop.is_set() or (self._lease.is_cancelled and phase == "extract")

    def _copy(self, news: News) -> None:
        def write(session: Session) -> None:
            if news.begins_anew:
                last = max((int(point["step"]) for point in news.points), default=0)
                self._series.forget_after(session, self._experiment.id, last)
            self._series.write(session, self._experiment.id, news.points)

        if not self._lease.tell(write):
            self._follower.look_again()
            return
        for point in news.points:
            self._lease.progress |= _told(point)
        self._tell_reached()

    def _set_phase(self, phase: str) -> None:
        self._lease.progress["phase"] = phase
        self._tell_reached()
        self._lease.persist(lambda session: self._experiments.set_phase(session, self._experiment.id, phase))
        self._lease.beat(at_once=True)

    def _tell_reached(self) -> None:
        """Whole phases, and of the training how much of it its last checkpoint has at least."""
        progress = self._lease.progress
        share = progress.get("share", 0.0) if progress["phase"] == "train" else 0.0
        progress[REACHED] = max(_PHASES.index(progress["phase"]) + share, progress.get(REACHED, 0.0))

    def _clear_staging(self) -> None:
        """What a killed stage had begun to write."""
        for folder in (self._directory, self._run):
            for left in folder.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)

    def _write_parameters(self) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        parameters = stage_parameters(self._experiment, self._experiments, self._datasets)
        with staged(self._directory / PARAMETERS_FILE) as temporary:
            temporary.write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")

    def _conclude(self) -> Verdict | None:
        """Scores, artifacts and the end in one transaction, with a wish to deploy where the gate allows it."""
        scores, baseline = _read(self._directory / layout.SCORES), _read(self._directory / layout.BASELINE_SCORES)
        wanted, ends_cancelled = self._experiment.plan["wish"]["deploy_if"], self._lease.is_cancelled
        verdict = judge(DeployIf(**wanted), scores, baseline) if wanted and not ends_cancelled else None
        ran = load_facts(self._run)
        summary = {
            **_read(self._directory / layout.TRAINING_METRICS),
            "scores": scores,
            "baseline": baseline,
            "verdict": {"passed": verdict.passed, "reason": verdict.reason} if verdict else None,
        }
        left_behind = self._left_behind()

        def write(session: Session) -> None:
            experiment = session.get_one(Experiment, self._experiment.id)
            experiment.environment = {"versions": ran["versions"], "machine": ran["machine"]}
            experiment.summary = summary
            for role, (path, sha256) in left_behind.items():
                self._experiments.add_artifact(session, experiment.id, role, path, sha256)
            self._remember(session, scores, experiment.id, left_behind[BUNDLE][1], verdict)
            self._jobs.end(session, self._lease.claim, "cancelled" if ends_cancelled else "succeeded")
            if verdict is not None and verdict.passed:
                payload = {"experiment_id": experiment.id, "reason": verdict.reason}
                self._jobs.queue(session, DEPLOY, payload=payload)

        if self._experiment.parent_id is not None:
            parent = self._experiments.bundle_of(self._experiment.parent_id)
            self._lease.persist(lambda session: self._remember(session, baseline, parent.experiment.id, parent.sha256))
        self._lease.persist(write)
        return verdict

    def _remember(
        self, session: Session, scores: Any, experiment_id: int, sha256: str, verdict: Verdict | None = None
    ) -> None:
        fingerprint = load_dataset(self._directory / layout.DATA).fingerprint
        for source, metrics in scores.items():
            self._evaluations.remember(
                session, experiment_id, sha256, sha256_of_text(f"{fingerprint}:{source}"), source, metrics,
                int(metrics["bytes"]), verdict.reason if verdict else None,
            )  # fmt: skip

    def _left_behind(self) -> dict[str, tuple[Path, str]]:
        """What is kept: role → where it lies and its SHA-256 (a bundle's is that of its manifest)."""
        model = self._run / MODEL_DIRECTORY
        files = {
            "curve": self._directory / layout.CURVE_PICTURE,
            SAMPLES: self._directory / layout.SAMPLES,
            "log": self._directory / LOG_FILE,
            "plan": self._run / PLAN_FILE,
        }
        kept = {role: (path, sha256_of_file(path)) for role, path in files.items() if path.is_file()}
        own = {BUNDLE: (self._bundle, bundle_sha256(self._bundle))}
        return own | {"model": (model, sha256_of_file(model / WEIGHTS_FILE))} | kept


def _told(point: dict[str, Any]) -> dict[str, Any]:
    """What a list of experiments shows of a point."""
    names = {"progress": "share", "step": "step", "tokens": "tokens", "seconds": "seconds"}
    told = {shown: point[name] for name, shown in names.items() if name in point}
    share, seconds = told.get("share", 0.0), told.get("seconds", 0.0)
    if 0 < share <= 1:
        told["eta_s"] = round(seconds / share * (1 - share), 1)
    return told | {name: point[name] for name in ("train_loss", "tokens_per_second") if name in point}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
