"""Experiments: what is remembered of runs; their artifacts, and the bundle that an experiment left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Exists, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ml_service.common.bundle import bundle_sha256, load_manifest
from ml_service.common.errors import BundleRefused, Conflict, NotFound
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.states import change_state
from ml_service.data.tables import Artifact, Experiment

BUNDLE, SAMPLES = "bundle", "samples"
"""Roles of artifacts."""
FINISHED = ("succeeded", "failed", "cancelled")
_NOT_DEPLOYABLE = {
    "queued": "is still waiting to be trained",
    "running": "is still training",
    "failed": "failed and left no model",
    "cancelled": "was cancelled before it had a model",
    "succeeded": "has no bundle any more: retention removed its files",
}
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
"""Of a row in any database."""
Sort = Literal["id", "name", "state", "created", "finished", "data", "parameters", "bits_per_byte"]
_COLUMNS = {"data": "dataset_version_id"}


@dataclass(frozen=True)
class StoredBundle:
    """An experiment's bundle on disk."""

    experiment: Experiment
    path: Path
    sha256: str

    def check(self) -> None:
        """Raises BundleRefused, in words, where what lies there is not the bundle that the experiment left."""
        load_manifest(self.path)  # refuses in words where the directory is gone
        if bundle_sha256(self.path) != self.sha256:
            raise BundleRefused(f"the bundle of experiment {self.experiment.id} is not the one that it left")


class Experiments:
    """The experiments of a store. Rows that it gives are copies: what is done to them is not remembered."""

    def __init__(self, database: Database, store: Path) -> None:
        self._database, self._store = database, store

    def directory(self, experiment_id: int) -> Path:
        """Where an experiment's files lie."""
        return self._store / "experiments" / str(experiment_id)

    def get(self, experiment_id: int) -> Experiment:
        """Raises NotFound in words."""
        with self._database.reading() as session:
            return _found(session, experiment_id)

    def find(
        self,
        states: tuple[str, ...] = (),
        name: str | None = None,
        kind: str | None = None,
        sort: Sort = "id",
        newest_first: bool = True,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Experiment]:
        """Those that match; `name` is a part of it. What has no value to be sorted by comes last."""
        column = _sorted_by(sort)
        wanted = select(Experiment).where(*_matching(states, name, kind))
        wanted = wanted.order_by((column.desc() if newest_first else column.asc()).nulls_last(), Experiment.id.desc())
        with self._database.reading() as session:
            return list(session.scalars(wanted.limit(limit).offset(offset)))

    def count(self, states: tuple[str, ...] = (), name: str | None = None, kind: str | None = None) -> int:
        """How many match."""
        with self._database.reading() as session:
            wanted = select(func.count()).select_from(Experiment).where(*_matching(states, name, kind))
            return session.scalar(wanted) or 0

    def set_phase(self, session: Session, experiment_id: int, phase: str) -> None:
        """Which stage runs."""
        change_state(session, Experiment, experiment_id, ("running",), "running", phase=phase)

    def bundle_of(self, experiment_id: int) -> StoredBundle:
        """Raises NotFound for no such experiment, Conflict in words where it has no bundle (yet)."""
        with self._database.reading() as session:
            experiment = _found(session, experiment_id)
            artifact = session.scalar(
                select(Artifact).where(
                    Artifact.experiment_id == experiment_id, Artifact.role == BUNDLE, Artifact.removed.is_(None)
                )
            )
        if artifact is None or experiment.state not in FINISHED:
            raise Conflict(f"experiment {experiment_id} {_NOT_DEPLOYABLE[experiment.state]}")
        return StoredBundle(experiment, self._store / artifact.path, artifact.sha256)

    def bundle_named(self, name: str) -> StoredBundle:
        """That of an experiment by its number or its name; of those with the same name, the newest that has a bundle.

        Raises NotFound, Conflict as `bundle_of`.
        """
        number = int(name) if _NUMBER.fullmatch(name) else None
        with self._database.reading() as session:
            if number is None or session.get(Experiment, number) is None:
                number = _newest_named(session, name)
        return self.bundle_of(number)

    def artifacts_of(self, experiment_id: int) -> list[Artifact]:
        """What it left, by role."""
        with self._database.reading() as session:
            wanted = select(Artifact).where(Artifact.experiment_id == experiment_id).order_by(Artifact.role)
            return list(session.scalars(wanted))

    def add_artifact(self, session: Session, experiment_id: int, role: str, path: Path, sha256: str) -> None:
        """Remember a file or directory that lies complete on disk; the same role again replaces it."""
        stored = session.scalar(
            select(Artifact).where(Artifact.experiment_id == experiment_id, Artifact.role == role)
        ) or Artifact(experiment_id=experiment_id, role=role)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        stored.path, stored.sha256 = self._relative(path), sha256
        stored.size_bytes, stored.removed = sum(file.stat().st_size for file in files), None
        session.add(stored)
        session.flush()

    def import_bundle(self, bundle: Path, actor: str) -> Experiment:
        """The experiment of a bundle that came from outside; the same bundle again is the same experiment."""
        sha256, manifest = bundle_sha256(bundle), load_manifest(bundle)
        with self._database.exclusive("import"), self._database.writing() as session:
            known = session.scalar(
                select(Artifact).where(Artifact.sha256 == sha256, Artifact.role == BUNDLE, Artifact.removed.is_(None))
            )
            if known is not None:
                known.path = self._relative(bundle)  # it may have been moved
                return _found(session, known.experiment_id)
            moment = now()
            experiment = Experiment(
                name=manifest.experiment, kind="import", state="succeeded", plan={}, seed=0,
                commit=manifest.training_commit.removesuffix("-dirty"),
                dirty=manifest.training_commit.endswith("-dirty"), environment=dict(manifest.versions),
                attempt=0, summary={"scores": dict(manifest.metrics), "parameters": manifest.parameters},
                pinned=True, actor=actor, created=moment, started=moment, finished=moment,
            )  # fmt: skip
            session.add(experiment)
            session.flush()
            self.add_artifact(session, experiment.id, BUNDLE, bundle, sha256)
            audit.record(
                self._database, session, actor, "import", f"experiment {experiment.id}", {}, {"sha256": sha256}
            )
            return experiment

    def create(self, session: Session, experiment: Experiment) -> Experiment:
        """Remember a new one. Raises Conflict where its idempotency key is taken."""
        session.add(experiment)
        try:
            session.flush()
        except IntegrityError as error:
            raise Conflict("the Idempotency-Key belongs to another experiment") from error
        return experiment

    def of_key(self, session: Session, key: str) -> Experiment | None:
        """The experiment that was asked for under this idempotency key."""
        return session.scalar(select(Experiment).where(Experiment.idempotency_key == key))

    def pin(self, experiment_id: int, pinned: bool, actor: str) -> None:
        """Keep its files whatever retention says, or let them go."""
        with self._database.writing() as session:
            experiment = _found(session, experiment_id)
            before: dict[str, Any] = {"pinned": experiment.pinned}
            experiment.pinned = pinned
            target = f"experiment {experiment_id}"
            audit.record(self._database, session, actor, "pin", target, before, {"pinned": pinned})

    def _relative(self, path: Path) -> str:
        """As it is remembered: below the store, so that the store may move; else where it lies."""
        whole, store = path.resolve(), self._store.resolve()
        return str(whole.relative_to(store) if whole.is_relative_to(store) else whole)


def check_bundle_is_kept(session: Session, experiment_id: int) -> None:
    """Raises Conflict where retention has removed it."""
    removed = select(Artifact.removed).where(Artifact.experiment_id == experiment_id, Artifact.role == BUNDLE)
    if session.scalar(removed) is not None:
        raise Conflict(f"experiment {experiment_id} {_NOT_DEPLOYABLE['succeeded']}")


def _matching(states: tuple[str, ...], name: str | None, kind: str | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if states:
        wanted.append(Experiment.state.in_(states))
    if name:
        wanted.append(Experiment.name.icontains(name, autoescape=True))
    if kind:
        wanted.append(Experiment.kind == kind)
    return wanted


def _sorted_by(sort: Sort) -> ColumnElement[Any]:
    column: ColumnElement[Any]
    match sort:
        case "parameters":
            column = Experiment.summary["parameters"].as_integer()
        case "bits_per_byte":  # of the new text: what all retrainings are judged by
            column = Experiment.summary["scores", "new", "bits_per_byte"].as_float()
        case _:
            column = getattr(Experiment, _COLUMNS.get(sort, sort)).expression
    return column


def deployable(session: Session, experiment_ids: Sequence[int]) -> set[int]:
    """Those of them that have a bundle."""
    return set(session.scalars(select(Experiment.id).where(Experiment.id.in_(experiment_ids), _has_bundle())))


def _has_bundle() -> Exists:
    return exists().where(
        Artifact.experiment_id == Experiment.id, Artifact.role == BUNDLE, Artifact.removed.is_(None),
        Experiment.state.in_(FINISHED),
    )  # fmt: skip


def _newest_named(session: Session, name: str) -> int:
    newest = Experiment.id.desc()
    wanted = select(Experiment.id).where(Experiment.name == name).order_by(_has_bundle().desc(), newest)
    found = session.scalar(wanted.limit(1))
    if found is None:
        raise NotFound(f"there is no model {name!r} here: no experiment has that number or name")
    return found


def _found(session: Session, experiment_id: int) -> Experiment:
    experiment = session.get(Experiment, experiment_id)
    if experiment is None:
        raise NotFound(f"there is no experiment {experiment_id}")
    return experiment
