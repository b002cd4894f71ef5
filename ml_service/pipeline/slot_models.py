"""The one function that makes a process's models equal to the slot: at start, after a change, in each of N replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path

from lib.gently import gently
from ml_service.common.bundle import bundle_sha256, load_manifest, verify_files
from ml_service.common.errors import BundleRefused, Conflict, NotFound
from ml_service.common.settings import Settings
from ml_service.data.database import Database
from ml_service.data.deployments import Deployments, Order, Slot
from ml_service.data.experiments import Experiments, StoredBundle
from ml_service.data.tables import Deployment
from ml_service.inference.handles import Handles, Live
from ml_service.inference.live import LiveModel, open_live_model
from ml_service.inference.shadow import Shadow
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry
from ml_service.utils.tracing import detail

log = EventLogger("slot")
_ACTOR = "start"
_CANNOT_OPEN = (BundleRefused, Conflict, NotFound, OSError)
OnSwap = Callable[[Handles, Handles, Slot], None]
"""Told what answered, what answers now, and what the slot says."""


@dataclass(frozen=True)
class Candidate:
    """A bundle that was opened before it is anyone's."""

    model: LiveModel
    is_shadow: bool


class SlotModels:
    """Opens what the slot names and swaps it in; blocking, and one call at a time."""

    def __init__(
        self, database: Database, settings: Settings, live: Live, telemetry: Telemetry, on_swap: OnSwap
    ) -> None:
        self._database, self._settings, self._live, self._telemetry = database, settings, live, telemetry
        self._on_swap = on_swap
        self._deployments = Deployments(database)
        self._experiments = Experiments(database, settings.store)

    def open_at_start(self) -> str | None:
        """Let the slot's model answer; where there is none, the settings' bundle is deployed as the first.

        A bundle that was given in so many words and is not the active one is deployed, too. Returns what is wrong where
        an earlier model must stand in for the active one. Raises BundleRefused, in words, where nothing can be opened.
        """
        opened = self._deploy_given()
        trouble = self.converge(opened)
        if not self._live.is_open:
            assert trouble is not None, "no model and no trouble: this is a bug"
            self._fall_back(trouble)
        return trouble

    def candidate(self, stored: StoredBundle, order: Order) -> Candidate | None:
        """Open a bundle and let it prove itself; None where that very bundle answers already. Raises BundleRefused."""
        is_shadow = order.strategy == "shadow"
        if not is_shadow and any(model.sha256 == stored.sha256 for model in _answering(self._live.handles)):
            verify_files(stored.path)
            return None
        return Candidate(self._open(stored.path, is_shadow), is_shadow)

    def converge(self, candidate: Candidate | None = None) -> str | None:
        """Make the live models equal to the slot, with what is open already; returns what is wrong, in words.

        Where the active bundle cannot be opened the model before goes on answering. Raises Unavailable.
        """
        try:
            return self._converge(candidate)
        finally:
            if candidate is not None and candidate.model.engine not in self._live.handles.engines():
                candidate.model.engine.stop()  # another process was faster

    def _converge(self, candidate: Candidate | None) -> str | None:
        slot, before = self._deployments.slot(), self._live.handles
        if slot.active is None or slot.generation == before.generation:
            return None
        try:
            active = self._model_of(slot.active, before, candidate)
        except _CANNOT_OPEN as refused:
            log.warning("slot.refused", generation=slot.generation, reason=str(refused))
            return f"generation {slot.active.generation} cannot be opened: {refused}"
        canary, shadow, trouble = None, None, None
        for trial in filter(None, (slot.canary, slot.shadow)):
            try:
                if trial is slot.canary:
                    canary = self._model_of(trial, before, candidate)
                else:
                    shadow = self._shadow_of(trial, before, candidate, active)
            except _CANNOT_OPEN as refused:
                log.warning("slot.refused", generation=trial.generation, reason=str(refused))
                trouble = f"the {trial.strategy} of generation {trial.generation} cannot be opened: {refused}"
        percent = slot.canary.percent or 0.0 if slot.canary is not None and canary is not None else 0.0
        # With something missing it stays behind the slot, so that it is tried again and not counted as loaded.
        generation = slot.generation if trouble is None else before.generation
        self._swap(Handles(generation, active, canary, percent, shadow), slot)
        return trouble

    def _swap(self, handles: Handles, slot: Slot) -> None:
        before = self._live.handles
        with detail("swap models", ml_service__generation=slot.generation):
            self._live.swap(handles)
        self._on_swap(before, handles, slot)
        assert handles.active is not None, "there is always an active model after a swap"
        manifest = handles.active.manifest
        self._telemetry.model_answers(
            str(handles.active.experiment_id), manifest.experiment, manifest.commit, manifest.date, manifest.precision,
            handles.active.generation,
        )  # fmt: skip
        log.info("slot.swapped", generation=slot.generation, experiment=handles.active.experiment_id)

    def _model_of(self, row: Deployment, before: Handles, candidate: Candidate | None) -> LiveModel:
        opened = [candidate.model] if candidate is not None and not candidate.is_shadow else []
        for model in (*opened, *_answering(before)):
            if model.sha256 == row.artifact_sha256:
                return _as(model, row)
        return _as(self._open(self._path_of(row), is_shadow=False), row)

    def _shadow_of(self, row: Deployment, before: Handles, candidate: Candidate | None, active: LiveModel) -> Shadow:
        if before.shadow is not None and before.shadow.model.deployment_id == row.id:
            return before.shadow
        if candidate is not None and candidate.is_shadow and candidate.model.sha256 == row.artifact_sha256:
            model = candidate.model
        else:
            model = self._open(self._path_of(row), is_shadow=True)
        return Shadow(_as(model, row), active, self._telemetry)

    def _open(self, bundle: Path, is_shadow: bool) -> LiveModel:
        self._live.dismiss_idle(waits=True)  # what is deployed may need their memory
        others = tuple(self._live.handles.models().values())
        if not is_shadow:
            return open_live_model(bundle, self._settings, self._telemetry, others)
        # Its threads are born with less urgency, and what it does for nobody is not counted among the requests.
        settings = self._settings.model_copy(update={"threads": 1})
        return gently(lambda: open_live_model(bundle, settings, Telemetry(), others))

    def _path_of(self, row: Deployment) -> Path:
        stored = self._experiments.bundle_of(row.experiment_id)
        load_manifest(stored.path)
        if not row.artifact_sha256 == stored.sha256 == bundle_sha256(stored.path):
            raise BundleRefused(f"the bundle of experiment {row.experiment_id} is not the one that was deployed")
        return stored.path

    def _deploy_given(self) -> Candidate | None:
        bundle, is_given = self._settings.bundle_directory, self._settings.bundle is not None

        def is_wanted() -> bool:
            active = self._deployments.slot().active
            return active is None or (is_given and active.artifact_sha256 != bundle_sha256(bundle))

        if is_given:
            load_manifest(bundle)  # refuses in words what is no bundle
        if not is_wanted():
            return None
        candidate = Candidate(self._open(bundle, is_shadow=False), is_shadow=False)
        with self._database.exclusive("start"):  # of replicas that start together one deploys
            if is_wanted():
                experiment = self._experiments.import_bundle(bundle, _ACTOR)
                is_first = self._deployments.slot().active is None
                order = Order(experiment.id, _ACTOR, "first start" if is_first else "given at start")
                self._deployments.activate(order, candidate.model.sha256)
                self._telemetry.deployments.labels("ok", "start").inc()
        return candidate

    def _fall_back(self, trouble: str) -> None:
        row = self._deployments.slot().active
        while row is not None and (row := self._deployments.before(row)) is not None:
            try:
                model = _as(self._open(self._path_of(row), is_shadow=False), row)
            except _CANNOT_OPEN as refused:
                log.warning("slot.refused", generation=row.generation, reason=str(refused))
                continue
            self._swap(Handles(0, model), Slot(row.generation or 0))
            return
        raise BundleRefused(f"{trouble}; nor can any before it: name another with --bundle")


def _answering(handles: Handles) -> list[LiveModel]:
    return [model for model in (handles.active, handles.canary) if model is not None]


def _as(model: LiveModel, row: Deployment) -> LiveModel:
    return with_changes(model, experiment_id=row.experiment_id, deployment_id=row.id, generation=row.generation or 0)
