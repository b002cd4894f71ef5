"""Deployments: which bundle answers in the slot, who changed that and why; each change is one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from ml_service.common.errors import BundleRefused, Conflict, NotFound
from ml_service.common.types import DeployStrategy, Trial
from ml_service.data import audit
from ml_service.data.database import Database, now
from ml_service.data.experiments import check_bundle_is_kept
from ml_service.data.states import change_state
from ml_service.data.tables import SLOT, Deployment, Experiment, ServingSlot

CHANNEL = "ml_service_slot"
"""Told on PostgreSQL whenever the slot has changed."""
RESTORES = "restores"
"""In the outcome of a rollback: the id of the deployment that it brought back."""
_ANSWERING = ("replace", "rollback")
_LONGEST_REASON = 255


@dataclass(frozen=True)
class Order:
    """What is wanted, by whom and why."""

    experiment_id: int
    actor: str
    reason: str
    strategy: DeployStrategy | Literal["rollback"] = "replace"
    percent: float | None = None
    """Of the requests, for a canary."""
    key: str | None = None
    """Idempotency key."""
    evaluation_id: int | None = None


@dataclass(frozen=True)
class Fault:
    """Why a deployment was taken back by itself."""

    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slot:
    """What should answer now."""

    generation: int = 0
    active: Deployment | None = None
    previous: Deployment | None = None
    """Where a rollback leads to, if its bundle is still there."""
    shadow: Deployment | None = None
    canary: Deployment | None = None


class Deployments:
    """The deployments of a store. Every change of the slot counts its generation up by one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def generation(self) -> int:
        """How often the slot has changed. Raises Unavailable where the database is away."""
        with self._database.reading() as session:
            return session.scalar(select(ServingSlot.generation).where(ServingSlot.name == SLOT)) or 0

    def slot(self) -> Slot:
        """The slot and its deployments, as one state."""
        with self._database.reading() as session:
            row = session.get(ServingSlot, SLOT)
            if row is None:
                return Slot()
            wanted = (row.active_id, row.previous_id, row.shadow_id, row.canary_id)
            found = (session.get(Deployment, each) if each is not None else None for each in wanted)
            return Slot(row.generation, *found)

    def get(self, deployment_id: int) -> Deployment:
        """Raises NotFound in words."""
        with self._database.reading() as session:
            found = session.get(Deployment, deployment_id)
        if found is None:
            raise NotFound(f"there is no deployment {deployment_id}")
        return found

    def history(self, limit: int) -> list[Deployment]:
        """The latest first."""
        with self._database.reading() as session:
            return list(session.scalars(select(Deployment).order_by(Deployment.id.desc()).limit(limit)))

    def names_of(self, deployments: list[Deployment]) -> dict[int, str]:
        """The experiments' names by their id."""
        ids = {each.experiment_id for each in deployments}
        with self._database.reading() as session:
            wanted = select(Experiment.id, Experiment.name).where(Experiment.id.in_(ids))
            return {row.id: row.name for row in session.execute(wanted)}

    def before(self, deployment: Deployment) -> Deployment | None:
        """Where a rollback of this one leads: to what answered before it.

        A rollback stands where the one that it brought back stood, so that the next rollback goes further back and
        never to what has just been left.
        """
        with self._database.reading() as session:
            return _before(session, deployment)

    def of_key(self, key: str | None, strategy: str, experiment_id: int | None = None) -> Deployment | None:
        """What was asked for under this key before. Raises Conflict where it was something else."""
        with self._database.reading() as session:
            return _of_key(session, key, strategy, experiment_id)

    def activate(
        self,
        order: Order,
        sha256: str,
        *,
        instead_of: int | None = None,
        restores: Deployment | None = None,
        fault: Fault | None = None,
    ) -> Deployment:
        """Let a proved bundle answer; what was tried beside the one before ends with that one.

        `instead_of` is the deployment that must still be active, `fault` is its own. Raises Conflict where it is not.
        """
        with self._database.writing() as session:
            slot = self._locked(session)
            wanted = None if order.strategy == "rollback" else order.experiment_id
            if known := _of_key(session, order.key, order.strategy, wanted):
                return known
            if instead_of is not None and slot.active_id != instead_of:
                raise Conflict("another deployment was made meanwhile: look at GET /deployments and ask again")
            before = _told(slot)
            _end(session, slot.active_id, "active", fault)
            for trial in ("shadow", "canary"):
                _end(session, _trial_of(slot, trial), trial)
            outcome = {RESTORES: restores.id} if restores is not None else {}
            added = _add(session, slot, order, sha256, "active", outcome)
            earlier = _before(session, added)
            slot.active_id, slot.previous_id = added.id, earlier.id if earlier is not None else None
            slot.shadow_id = slot.canary_id = None
            self._changed(session, slot, order.actor, order.strategy, before, order.reason)
            return added

    def try_out(self, order: Order, sha256: str) -> Deployment:
        """Let a proved bundle run beside the active one, as shadow or canary, in place of such a one before.

        Raises Conflict where nothing is active or it is this experiment.
        """
        assert order.strategy in ("shadow", "canary"), "anything else is activated: this is a bug"
        with self._database.writing() as session:
            slot = self._locked(session)
            if known := _of_key(session, order.key, order.strategy, order.experiment_id):
                return known
            active = session.get(Deployment, slot.active_id) if slot.active_id is not None else None
            if active is None:
                raise Conflict(f"nothing answers yet that a {order.strategy} could be compared with: deploy it")
            if active.artifact_sha256 == sha256:
                raise Conflict(f"experiment {order.experiment_id} answers: a {order.strategy} of it would say nothing")
            before = _told(slot)
            _end(session, _trial_of(slot, order.strategy), order.strategy)
            added = _add(session, slot, order, sha256, order.strategy, {})
            _set_trial(slot, order.strategy, added.id)
            self._changed(session, slot, order.actor, order.strategy, before, order.reason)
            return added

    def end(
        self, trial: Trial, actor: str, reason: str, fault: Fault | None = None, only: int | None = None
    ) -> Deployment:
        """Take the shadow or canary away. Raises NotFound where there is none (or it is not the one that is meant)."""
        with self._database.writing() as session:
            slot = self._locked(session)
            current = _trial_of(slot, trial)
            if current is None or (only is not None and current != only):
                raise NotFound(f"there is no {trial}")
            before = _told(slot)
            _end(session, current, trial, fault)
            slot.generation += 1
            _set_trial(slot, trial, None)
            self._changed(session, slot, actor, f"end {trial}", before, reason)
            ended = session.get(Deployment, current, populate_existing=True)
            assert ended is not None, "a deployment is never removed"
            return ended

    def remember_failure(self, order: Order, sha256: str, error: str) -> None:
        """A bundle did not prove itself: nothing changes but the history."""
        with self._database.writing() as session:
            slot = self._locked(session)
            if _with_key(session, order.key) is not None:
                return
            session.add(_row(order, sha256, "failed", {}, error))
            target = f"experiment {order.experiment_id}"
            audit.record(self._database, session, order.actor, "deploy failed", target, _told(slot), {"error": error})

    def add_outcome(self, deployment_id: int, figures: dict[str, Any]) -> None:
        """How it did."""
        with self._database.writing() as session:
            row = session.get(Deployment, deployment_id, with_for_update=True)
            if row is not None:
                row.outcome = row.outcome | figures

    def _locked(self, session: Session) -> ServingSlot:
        slot = session.get(ServingSlot, SLOT, with_for_update=True)
        if slot is None:
            self._database.lock_for_this_transaction(session, "slot")  # only one makes it
            slot = session.get(ServingSlot, SLOT, with_for_update=True) or ServingSlot(name=SLOT, generation=0)
            session.add(slot)
            session.flush()
        return slot

    def _changed(
        self, session: Session, slot: ServingSlot, actor: str, action: str, before: dict[str, Any], reason: str
    ) -> None:
        after = _told(slot) | {"reason": reason}
        audit.record(self._database, session, actor, action, f"slot {slot.name}", before, after)
        self._database.notify(session, CHANNEL, str(slot.generation))


def _row(order: Order, sha256: str, state: str, outcome: dict[str, Any], error: str | None = None) -> Deployment:
    return Deployment(
        slot=SLOT, experiment_id=order.experiment_id, artifact_sha256=sha256, state=state, strategy=order.strategy,
        percent=order.percent, reason=order.reason[:_LONGEST_REASON], actor=order.actor,
        evaluation_id=order.evaluation_id, outcome=outcome, error=error, idempotency_key=order.key, created=now(),
    )  # fmt: skip


def _add(
    session: Session, slot: ServingSlot, order: Order, sha256: str, state: str, outcome: dict[str, Any]
) -> Deployment:
    check_bundle_is_kept(session, order.experiment_id)  # retention locks the slot, too
    slot.generation += 1
    added = _row(order, sha256, state, outcome)
    added.generation, added.activated = slot.generation, now()
    session.add(added)
    session.flush()
    return added


def _end(session: Session, deployment_id: int | None, state: str, fault: Fault | None = None) -> None:
    if deployment_id is None:
        return
    values: dict[str, Any] = {"retired": now()}
    if fault is not None:
        row = session.get(Deployment, deployment_id)
        values |= {"error": fault.sentence, "outcome": (row.outcome if row is not None else {}) | fault.figures}
    change_state(session, Deployment, deployment_id, (state,), "retired" if fault is None else "failed", **values)


def _before(session: Session, deployment: Deployment) -> Deployment | None:
    while (restored := deployment.outcome.get(RESTORES)) is not None:
        found = session.get(Deployment, restored)
        assert found is not None, "a deployment is never removed"
        deployment = found
    return session.scalar(
        select(Deployment)
        .where(
            Deployment.slot == deployment.slot,
            Deployment.strategy.in_(_ANSWERING),
            Deployment.generation < deployment.generation,
        )
        .order_by(Deployment.generation.desc())
        .limit(1)
    )


def _of_key(session: Session, key: str | None, strategy: str, experiment_id: int | None) -> Deployment | None:
    known = _with_key(session, key)
    if known is None:
        return None
    if known.strategy != strategy or experiment_id not in (None, known.experiment_id):
        raise Conflict("the Idempotency-Key belongs to another deployment")
    if known.generation is None:
        raise BundleRefused(known.error or "the bundle did not prove itself")
    return known


def _with_key(session: Session, key: str | None) -> Deployment | None:
    return session.scalar(select(Deployment).where(Deployment.idempotency_key == key)) if key is not None else None


def _trial_of(slot: ServingSlot, trial: str) -> int | None:
    return slot.shadow_id if trial == "shadow" else slot.canary_id


def _set_trial(slot: ServingSlot, trial: str, deployment_id: int | None) -> None:
    if trial == "shadow":
        slot.shadow_id = deployment_id
    else:
        slot.canary_id = deployment_id


def _told(slot: ServingSlot) -> dict[str, Any]:
    return {
        "generation": slot.generation, "active": slot.active_id, "previous": slot.previous_id,
        "shadow": slot.shadow_id, "canary": slot.canary_id,
    }  # fmt: skip
