"""The pipeline's parameters: `params.yaml`, typed; unknown keys are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ml_service.common.bundle import Precision


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Section):
    """A file of documents whose source and split are decided already, such as a shard of a dataset version."""

    path: Path
    source: str
    split: Literal["train", "validation"]


class ExtractData(_Section):
    """Where the text comes from, and how it is cut into tokens."""

    parts: tuple[Part, ...] = ()
    stdlib: bool = True
    packages: bool = False
    packages_share: float = Field(1.0, gt=0, le=1)
    folders: tuple[Path, ...] = ()
    hub: tuple[str, ...] = ()
    held_out: tuple[Path, ...] = ()
    vocabulary_size: int = Field(8192, ge=257)
    validation_share: float = Field(0.05, gt=0, lt=1)
    tokenizer: Path | None = None


class ExportModel(_Section):
    """How the trained model is stored."""

    precision: Precision = "int8"
    licence: str = "MIT"
    experiment_id: int | None = None
    parent_experiment_id: int | None = None


class InferenceModel(_Section):
    """On what the bundle is judged, and what it is asked to continue."""

    max_bytes: int = Field(400_000, ge=1)
    """Of each held-out source: whole documents until there are so many bytes."""
    baseline: Path | None = None
    """A bundle that is scored on the same documents, to compare with."""
    prompts: tuple[str, ...] = ("import os\n", "def read_lines(path):")
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.5, ge=0)
    repetition_penalty: float = Field(1.15, gt=0)
    seed: int = 0


class Parameters(_Section):
    """All stages' parameters; `train_model` is a training plan without its places."""

    extract_data: ExtractData = ExtractData()
    train_model: dict[str, Any] = Field(default_factory=dict)
    export_model: ExportModel = ExportModel()
    inference_model: InferenceModel = InferenceModel()


def load_parameters(path: Path) -> Parameters:
    """Read the file. Raises FileNotFoundError or ValueError in words."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the pipeline's parameters; the project has an example")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if read is not None and not isinstance(read, dict):
        raise ValueError(f"{path} must map stages to their parameters")
    return Parameters(**(read or {}))
