"""What clients send to have a model judged, and what they are told of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ml_service.common.evaluation_options import EvaluationOptions
from ml_service.common.types import Identifier, StorableText
from ml_service.data.evaluations import Standing
from ml_service.data.tables import Evaluation
from ml_service.pipeline.judging.report import Report


class EvaluationQuestion(EvaluationOptions):
    """Which model, and how to judge it."""

    experiment_id: Identifier | None = Field(None, description="Whose model is judged; the active one's by default.")


class EvaluateRequest(EvaluationQuestion):
    """Texts to judge a model on."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"texts": ["def read_lines(path):\n    with open(path) as file:\n"]}]},
    )

    texts: list[StorableText] = Field(min_length=1, description="Each is a row: its likelihood is measured.")


class EvaluationOut(BaseModel):
    """An evaluation, and how it stands with it."""

    id: int
    state: str = Field(description="queued, running, succeeded, failed or cancelled.")
    experiment_id: int | None
    data: str = Field(description="The name of the file.")
    evaluator: str = Field(description="The version of what scores.")
    actor: str
    created: datetime
    finished: datetime | None
    progress: dict[str, Any] = Field(description="`done` of `total` rows and `eta_s`, while it runs.")
    error: str | None
    metrics: dict[str, Any] = Field(description="Metric → its value; `report` has the intervals.")
    report: Report | None = Field(description="Once it has succeeded.")
    rows: str | None = Field(description="Where the table with every row lies, for as long as it is kept.")


class EvaluateResponse(EvaluationOut):
    """The same, and whether it was answered before."""

    cached: bool = Field(description="Whether the same question had been put before.")


class EvaluationState(BaseModel):
    """What became of the wish to stop it."""

    id: int
    state: str = Field(description="cancelled; running where it is about to end.")


class EvaluationList(BaseModel):
    """Evaluations, newest first."""

    evaluations: list[EvaluationOut]


def evaluation_out(standing: Standing, has_rows: bool) -> dict[str, Any]:
    """As it is told."""
    evaluation: Evaluation = standing.evaluation
    has_report = "columns" in evaluation.report  # what a stage of a training measures has none
    return {
        "id": evaluation.id,
        "state": standing.state,
        "experiment_id": evaluation.experiment_id,
        "data": evaluation.data_name,
        "evaluator": evaluation.evaluator,
        "actor": evaluation.actor,
        "created": evaluation.created,
        "finished": evaluation.finished,
        "progress": standing.progress,
        "error": standing.error,
        "metrics": evaluation.metrics,
        "report": evaluation.report if has_report else None,
        "rows": f"/evaluations/{evaluation.id}/rows.csv" if has_rows else None,
    }
