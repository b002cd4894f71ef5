"""The wish to retrain: checked, completed, remembered as an experiment and queued as a job, all in one transaction."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy.orm import Session

from lib.files import sha256_of_text
from lib.provenance import current_commit
from ml_service.common.bundle import Precision
from ml_service.common.errors import BadRequest, Conflict, InsufficientStorage
from ml_service.common.settings import PROJECT
from ml_service.common.types import Identifier, StorableText, StorableValues
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.datasets import Datasets
from ml_service.data.deployments import Deployments
from ml_service.data.experiments import Experiments
from ml_service.data.jobs import Jobs
from ml_service.data.tables import Experiment
from ml_service.pipeline.gate import DeployIf
from ml_service.pipeline.recipe import CHOSEN_ELSEWHERE, Begin, recipe_of
from ml_service.training.plan import TrainingPlan

RETRAIN = "retrain"
_SPARE_BYTES = 500_000_000
"""What a run leaves on the disk besides its data: checkpoints, bundle, logs of a small model."""


class BudgetWish(BaseModel):
    """How long to train: exactly one of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float | None = Field(None, gt=0, le=30 * 86_400, allow_inf_nan=False)
    tokens: int | None = Field(None, gt=0, lt=2**53)
    steps: int | None = Field(None, gt=0, lt=2**53)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of seconds, tokens and steps")
        return self


class RetrainWish(BaseModel):
    """What to train on what, for how long, and when to deploy it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment_name: StorableText | None = Field(
        None, min_length=1, max_length=120, description="The name under which it is remembered."
    )
    start_from: Literal["active", "scratch"] | Identifier = Field(
        "active", description="The model to begin with: the one that answers, none, or that of an experiment."
    )
    dataset_version: Identifier | None = Field(None, description="The newest where not given.")
    replay: float = Field(
        0.6, ge=0, lt=1, allow_inf_nan=False, description="Share of the training for what the model knew before."
    )
    budget: BudgetWish = Field(BudgetWish(seconds=300), description="Seconds, tokens or steps.")
    hyperparameters: StorableValues = Field(
        default_factory=dict, description="Keys of the training plan, such as learning_rate, window, batch_size."
    )
    strategy: Literal["single", "ddp", "fsdp"] = Field("single", description="How processes share the work.")
    precision: Precision = Field("int8", description="How the bundle stores its weights.")
    deploy_if: DeployIf | None = Field(None, description="Deploy it by itself where it is better; else it waits.")
    seed: int = Field(0, ge=0, lt=2**31)


@dataclass(frozen=True)
class Asked:
    """An experiment that waits, and whether it had been asked for before under the same key."""

    experiment: Experiment
    is_new: bool


class Retrainer:
    """Takes wishes to retrain."""

    def __init__(self, database: Database, store: Path) -> None:
        self._database, self._store = database, store
        self._experiments, self._datasets = Experiments(database, store), Datasets(database, store)
        self._jobs = Jobs(database)

    def ask(self, wish: RetrainWish, actor: str, key: str | None = None) -> Asked:
        """Queue it. The same `key` with the same wish is the experiment that it was before.

        Raises BadRequest, NotFound, Conflict or InsufficientStorage in words.
        """
        told = sha256_of_text(wish.model_dump_json())
        with self._database.reading() as session:
            known = self._known(session, key, told)
        if known is not None:
            return Asked(known, is_new=False)
        experiment = self._experiment(wish, actor)
        experiment.idempotency_key, experiment.request_sha256 = key, told
        with self._database.exclusive("retrain"), self._database.writing() as session:
            known = self._known(session, key, told)  # the same request, sent twice at once
            if known is not None:
                return Asked(known, is_new=False)
            self._experiments.create(session, experiment)
            experiment.name = experiment.name or f"retrain-{experiment.id}"
            self._jobs.queue(session, RETRAIN, experiment.id)
            target = f"experiment {experiment.id}"
            audit.record(self._database, session, actor, "retrain", target, {}, experiment.plan["wish"])
        return Asked(experiment, is_new=True)

    def cancel(self, experiment_id: int, actor: str) -> str:
        """Stop it; what it has learned by then is kept. Returns the state that follows. Raises NotFound, Conflict."""
        self._experiments.get(experiment_id)
        with self._database.writing() as session:
            state = self._jobs.cancel(session, experiment_id)
            audit.record(self._database, session, actor, "cancel", f"experiment {experiment_id}", {}, {"state": state})
        return state

    def _known(self, session: Session, key: str | None, told: str) -> Experiment | None:
        known = self._experiments.of_key(session, key) if key is not None else None
        if known is not None and known.request_sha256 != told:
            raise Conflict(f"this Idempotency-Key was used for experiment {known.id}, which asked for something else")
        return known

    def _experiment(self, wish: RetrainWish, actor: str) -> Experiment:
        parent = self._parent_of(wish)
        wanted = wish.dataset_version
        version = self._datasets.get(wanted) if wanted is not None else self._datasets.latest()
        if version is None:
            raise Conflict("there is no data yet to train on: send some to /add_data")
        self._check_room(self._datasets.size_bytes(version))
        begin = Begin.of(self._experiments, parent, version.number, self._datasets)
        recipe = recipe_of(begin, wish.budget.model_dump(exclude_none=True), wish.replay, wish.hyperparameters)
        _check_plan(recipe, wish.hyperparameters)
        commit = current_commit(PROJECT)
        return Experiment(
            name=wish.experiment_name or "", kind="retrain" if parent is not None else "train", state="queued",
            parent_id=parent.id if parent is not None else None, dataset_version_id=version.id,
            plan={
                "wish": wish.model_dump(mode="json"), "training": recipe, "corpora": list(begin.corpora),
                "version": version.number, "known_version": begin.known_version,
            },
            seed=wish.seed, commit=commit.sha, dirty=commit.is_dirty, environment={}, attempt=0, summary={},
            pinned=False, actor=actor, created=now(),
        )  # fmt: skip

    def _parent_of(self, wish: RetrainWish) -> Experiment | None:
        if wish.start_from == "scratch":
            return None
        if wish.start_from != "active":
            return self._experiments.bundle_of(wish.start_from).experiment
        active = Deployments(self._database).slot().active
        if active is None:
            raise Conflict("no model is deployed yet to start from: say `start_from` scratch, or an experiment's id")
        return self._experiments.bundle_of(active.experiment_id).experiment

    def _check_room(self, data_bytes: int) -> None:
        free, wanted = shutil.disk_usage(self._store).free, room_for_training(data_bytes)
        if free < wanted:
            raise InsufficientStorage(
                f"a training run takes about {wanted / 1e6:,.0f} MB of disk and {free / 1e6:,.0f} MB are free"
            )


def room_for_training(data_bytes: int) -> int:
    """How much of the disk a training with so much data takes."""
    return 2 * data_bytes + _SPARE_BYTES


def _check_plan(recipe: dict[str, Any], hyperparameters: dict[str, Any]) -> None:
    """Raises BadRequest where the training plan would not take it."""
    if elsewhere := sorted(set(hyperparameters) & CHOSEN_ELSEWHERE):
        raise BadRequest(f"hyperparameters: {elsewhere[0]} is not chosen there but by the request's own fields")
    try:
        TrainingPlan(data=Path("data"), run=Path("run"), **recipe)
    except ValidationError as error:
        fields = [(f"hyperparameters.{'.'.join(map(str, item['loc']))}", item["msg"]) for item in error.errors()]
        raise BadRequest("; ".join(f"{where}: {what}" for where, what in fields[:5]), fields) from error
