"""Deploying: a bundle proves itself, then one transaction makes it what answers; running servers follow."""

from __future__ import annotations

from collections.abc import Callable

from ml_service.common.errors import BundleRefused, Conflict
from ml_service.common.settings import Settings
from ml_service.common.types import Trial
from ml_service.data.database import Database
from ml_service.data.deployments import Deployments, Fault, Order
from ml_service.data.experiments import Experiments, StoredBundle
from ml_service.data.tables import Deployment
from ml_service.inference.live import open_live_model
from ml_service.utils.logs import EventLogger
from ml_service.utils.telemetry import Telemetry

log = EventLogger("deploy")
GATE = "gate"
"""Who deploys what a retraining was told to deploy if it is better."""
Prove = Callable[[StoredBundle, Order], None]
"""Opens a bundle and lets it prove itself. Raises BundleRefused where it does not."""


class Deployer:
    """Changes the slot of a store; what proves a bundle is up to the process: a server keeps what it has opened."""

    def __init__(self, database: Database, settings: Settings, prove: Prove | None = None) -> None:
        self._settings = settings
        self._experiments = Experiments(database, settings.store)
        self._deployments = Deployments(database)
        self._prove = prove or self._prove_and_close

    def deploy(self, order: Order) -> Deployment:
        """Let an experiment's bundle answer, or try it out, as the order's strategy says.

        Raises NotFound; Conflict, in words, where it has no bundle or its key is another wish's; BundleRefused where
        the bundle does not prove itself, which the history remembers; Unavailable.
        """
        if known := self._deployments.of_key(order.key, order.strategy, order.experiment_id):
            return known
        stored = self._experiments.bundle_of(order.experiment_id)
        try:
            self._proved(stored, order)
        except BundleRefused as refused:
            self._deployments.remember_failure(order, stored.sha256, str(refused))
            raise
        if order.strategy == "replace":
            return self._deployments.activate(order, stored.sha256)
        return self._deployments.try_out(order, stored.sha256)

    def roll_back(
        self, actor: str, reason: str = "", key: str | None = None, fault: Fault | None = None, of: int | None = None
    ) -> Deployment:
        """Back to what answered before; what cannot be opened any more is passed over.

        `of` is the deployment that must be active. Raises Conflict, in words, where there is nothing to go back to.
        """
        if known := self._deployments.of_key(key, "rollback"):
            return known
        active = self._deployments.slot().active
        if active is None:
            raise Conflict("nothing is deployed yet")
        if of is not None and active.id != of:
            raise Conflict("another deployment was made meanwhile")
        why = f"rollback of generation {active.generation}" if fault is None else f"auto_rollback: {fault.sentence}"
        why = f"{why}: {reason}" if reason else why
        passed_over: list[str] = []
        target = self._deployments.before(active)
        while target is not None:
            order = Order(target.experiment_id, actor, "; ".join([why, *passed_over]), "rollback", key=key)
            try:
                self._proved(self._bundle_of(target), order)
            except (Conflict, BundleRefused) as gone:
                log.warning("rollback.passed_over", generation=target.generation, reason=str(gone))
                passed_over.append(f"generation {target.generation} is passed over: {gone}")
                target = self._deployments.before(target)
                continue
            return self._deployments.activate(
                order, target.artifact_sha256, instead_of=active.id, restores=target, fault=fault
            )
        raise Conflict(
            "; ".join([f"there is nothing before generation {active.generation} to go back to", *passed_over])
        )

    def end(
        self, trial: Trial, actor: str, reason: str, fault: Fault | None = None, of: int | None = None
    ) -> Deployment:
        """Take the shadow or the canary away. Raises NotFound where there is none."""
        return self._deployments.end(trial, actor, reason, fault, of)

    def _bundle_of(self, deployment: Deployment) -> StoredBundle:
        stored = self._experiments.bundle_of(deployment.experiment_id)
        if stored.sha256 != deployment.artifact_sha256:
            raise Conflict(f"experiment {deployment.experiment_id} has another bundle now")
        return stored

    def _proved(self, stored: StoredBundle, order: Order) -> None:
        stored.check()
        self._prove(stored, order)

    def _prove_and_close(self, stored: StoredBundle, _: Order) -> None:
        settings = self._settings.model_copy(update={"slots": 1, "prefix_cache_mib": 0})
        open_live_model(stored.path, settings, Telemetry()).engine.stop()


def in_words(deployment: Deployment) -> str:
    """A deployment in one line."""
    what = {"replace": "answers", "rollback": "answers again"}.get(deployment.strategy, f"is the {deployment.strategy}")
    return f"generation {deployment.generation}: experiment {deployment.experiment_id} {what}"
