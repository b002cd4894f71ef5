"""A question as a file: which bundle, which data, and how to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ml_service.common.evaluation_options import EvaluationOptions

QUESTION_FILE, REPORT_FILE, PROGRESS_FILE, ROWS_FILE = "question.json", "report.json", "progress.json", "rows.csv"
SCRATCH = ".scratch-"
"""How the names begin of what is needed only while it is judged; whatever is hidden is removed before another try."""


class Question(BaseModel):
    """What is asked of which model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    file: str = Field(description="Its name in the folder.")
    options: EvaluationOptions = EvaluationOptions()
    settings: dict[str, Any] = Field(default_factory=dict, description="How the model is opened.")
