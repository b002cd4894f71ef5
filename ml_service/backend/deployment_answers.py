"""Deployments in the words of the routes; blocking, for the database is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from ml_service.backend.deployment_schemas import (
    DeploymentOut,
    DeploymentsResponse,
    DeployResponse,
    ReplicaCount,
    ReplicaOut,
    ShadowOut,
    WatchLimits,
    WatchOut,
)
from ml_service.data.database import Database
from ml_service.data.deployments import Deployments
from ml_service.data.replicas import Replicas
from ml_service.data.tables import Deployment
from ml_service.inference.shadow import Shadow
from ml_service.pipeline.replica import Replica


def deploy_response(database: Database, replica: Replica, deployment: Deployment) -> DeployResponse:
    """What was done, and who has it by now."""
    names = Deployments(database).names_of([deployment])
    loaded, of = replica.loaded()
    return DeployResponse(**_told(deployment, names).model_dump(), replicas=ReplicaCount(loaded=loaded, of=of))


def overview(database: Database, replica: Replica, limit: int) -> DeploymentsResponse:
    """Everything that is known of the slot."""
    deployments = Deployments(database)
    slot, history = deployments.slot(), deployments.history(limit)
    places = {"active": slot.active, "previous": slot.previous, "shadow": slot.shadow, "canary": slot.canary}
    names = deployments.names_of([*history, *(each for each in places.values() if each is not None)])
    shadow, watched = replica.handles.shadow, replica.watched()
    return DeploymentsResponse(
        generation=slot.generation,
        **{place: _told(each, names) if each is not None else None for place, each in places.items()},
        agreement=_agreement(shadow) if shadow is not None else None,
        watched=[WatchOut(deployment_id=each, fault=v.fault, figures=v.figures) for each, v in watched.items()],
        limits=WatchLimits.model_validate(replica.limits, from_attributes=True),
        process=replica.id,
        replicas=[ReplicaOut.model_validate(each, from_attributes=True) for each in Replicas(database).living()],
        history=[_told(each, names) for each in history],
    )


def _told(row: Deployment, names: Mapping[int, str]) -> DeploymentOut:
    percent = row.percent if row.strategy == "canary" else None
    facts = {name: getattr(row, name) for name in DeploymentOut.model_fields if name not in ("experiment", "percent")}
    return DeploymentOut(**facts, experiment=names[row.experiment_id], percent=percent)


def _agreement(shadow: Shadow) -> ShadowOut:
    found = asdict(shadow.agreement)
    common, compared = found.pop("common"), found["compared"]
    return ShadowOut(
        **found,
        same_ratio=round(found["same"] / compared, 4) if compared else None,
        common_ratio=round(common / compared, 4) if compared else None,
        **{name: None if value is None else round(value, 3) for name, value in asdict(shadow.speed).items()},
    )
