"""`GET /metadata`: what the loaded graph file says of itself."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request

from ml_service.backend.dependencies import current_model
from ml_service.backend.schemas import MetadataResponse, Problem, TensorOut

router = APIRouter(tags=["inference"])


@router.get("/metadata", responses={401: {"model": Problem}, 503: {"model": Problem}})
async def metadata(request: Request) -> MetadataResponse:
    """Commit, export time, experiment and the rest, read from the ONNX file that answers, not from a database."""
    model = current_model(request)
    return MetadataResponse(
        **model.metadata,
        inputs=[TensorOut(**asdict(tensor)) for tensor in model.graph.inputs],
        outputs=[TensorOut(**asdict(tensor)) for tensor in model.graph.outputs],
        sha256=model.manifest.files,
    )
