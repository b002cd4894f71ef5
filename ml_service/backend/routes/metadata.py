"""`GET /metadata` and `/metadata/{experiment_id}`: what a model's graph file says of itself."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as InPath

from ml_service.backend.dependencies import CurrentDatabase, CurrentLive, CurrentSettings, needs
from ml_service.backend.documented import problems
from ml_service.backend.schemas import MetadataResponse, TensorOut
from ml_service.common.bundle import load_manifest, read_metadata_props
from ml_service.data.experiments import Experiments
from ml_service.inference.bundle_metadata import graph_info
from ml_service.inference.live import LiveModel
from ml_service.inference.session import GraphInfo

router = APIRouter(tags=["inference"], dependencies=[needs()])


@router.get("/metadata")
async def metadata(live: CurrentLive) -> MetadataResponse:
    """Commit, export time, experiment and the rest, read from the ONNX file that answers, not from a database."""
    return _of_model(live.current)


@router.get("/metadata/{experiment_id}", responses=problems(404, 409))
async def metadata_of(
    experiment_id: Annotated[int, InPath(ge=1, lt=2**63, description="The experiment's number.")],
    live: CurrentLive,
    database: CurrentDatabase,
    settings: CurrentSettings,
) -> MetadataResponse:
    """The same of any experiment that has a bundle, open or not."""
    if (model := live.handles.models().get(str(experiment_id))) is not None:
        return _of_model(model)
    experiments = Experiments(database, settings.store)
    return await asyncio.to_thread(lambda: _of_bundle(experiments.bundle_of(experiment_id).path))


def _of_model(model: LiveModel) -> MetadataResponse:
    return _response(model.metadata, model.graph, model.manifest.files)


def _of_bundle(bundle: Path) -> MetadataResponse:
    graph = graph_info(bundle)
    return _response(read_metadata_props(graph.metadata_props), graph, load_manifest(bundle).files)


def _response(facts: dict[str, Any], graph: GraphInfo, files: dict[str, str]) -> MetadataResponse:
    return MetadataResponse(
        **facts,
        inputs=[TensorOut(**asdict(tensor)) for tensor in graph.inputs],
        outputs=[TensorOut(**asdict(tensor)) for tensor in graph.outputs],
        sha256=files,
    )
