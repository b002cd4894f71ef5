"""A run's directory: its plan, its facts, its checkpoints, the trained model; what may go on there and what may not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.files import sha256_of_file, write_json
from lib.provenance import current_commit, machine, now_utc, versions
from lib.token_shards import DatasetManifest
from ml_service.common.errors import Conflict, InsufficientStorage
from ml_service.common.settings import PROJECT
from ml_service.training.plan import PLAN_FILE, TrainingPlan, load_plan

RUN_FILE = "run.json"
PROGRESS_FILE = "progress.jsonl"
MODEL_DIRECTORY = "model"
WEIGHTS_FILE = "model.safetensors"
CHECKPOINTS_DIRECTORY = "checkpoints"
TENSORBOARD_DIRECTORY = "tensorboard"
KEPT_CHECKPOINTS = 2
STOP_FILE = "stop-early"
"""Where somebody puts it, the run ends with its next update as if its budget were spent."""


def is_finished(run: Path) -> bool:
    """Whether the run has its trained model, which is its last file."""
    return (run / MODEL_DIRECTORY).is_dir()


def last_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that was written to its end: `trainer_state.json` comes last and must be readable."""
    checkpoints = sorted((run / CHECKPOINTS_DIRECTORY).glob("checkpoint-*"), key=step_of, reverse=True)
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # cut short by a kill: the one before is whole
        return checkpoint
    return None


def step_of(checkpoint: Path | None) -> int:
    """After which update it was written; 0 for none."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name) if checkpoint else None
    return int(match[1]) if match else 0


def load_facts(run: Path) -> dict[str, Any]:
    """What was true when the run began, and how it ended; `run.json`."""
    facts: dict[str, Any] = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    return facts


def facts_of(
    plan: TrainingPlan, dataset: DatasetManifest, choose_autocast: Callable[[TrainingPlan], str]
) -> dict[str, Any]:
    """The facts of a new run, or of the one that is there. Raises Conflict where that one has another plan or data.

    What `precision: auto` chose is a fact of the run: a resumed one must not compute otherwise than it began.
    """
    if (plan.run / PLAN_FILE).is_file():
        if load_plan(plan.run).recipe != plan.recipe:
            raise Conflict(f"{plan.run} holds a run with another plan: choose another directory, or give the same plan")
        facts = load_facts(plan.run)
        if facts.get("start_weights") != start_weights(plan):
            raise Conflict(f"{plan.run} began with other weights: a run goes on with those that it began with")
        if facts["dataset_fingerprint"] != dataset.fingerprint:
            raise Conflict(f"{plan.run} was begun on another data set: a run goes on with the data that it began with")
        return facts
    return {
        "started": now_utc(),
        "commit": str(current_commit(PROJECT)),
        "autocast": choose_autocast(plan),
        "start_weights": start_weights(plan),
        "dataset_fingerprint": dataset.fingerprint,
        "dataset": dataset.model_dump(),
        "versions": versions("torch", "transformers", "tokenizers"),
        "machine": machine(),
    }


def start_weights(plan: TrainingPlan) -> str | None:
    """The SHA-256 of the weights that it begins with; None from scratch. Raises FileNotFoundError in words."""
    if plan.start_from is None:
        return None
    path = plan.start_from / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{plan.start_from} is no trained model: it has no {WEIGHTS_FILE}")
    return sha256_of_file(path)


def begin_run(plan: TrainingPlan, facts: dict[str, Any]) -> None:
    """Write a new run's files, the plan last: a plan that could not be built leaves none behind."""
    if not (plan.run / PLAN_FILE).is_file():
        write_json(plan.run / RUN_FILE, facts)
        write_json(plan.run / PLAN_FILE, plan.model_dump(mode="json"))


def finish_run(run: Path, result: dict[str, Any]) -> None:
    """Add what came of it to the facts."""
    write_json(run / RUN_FILE, load_facts(run) | {"finished": now_utc()} | result)


def check_room(run: Path, checkpoint_bytes: int) -> None:
    """Refuse to begin what cannot be saved. Raises InsufficientStorage."""
    wanted = (KEPT_CHECKPOINTS + 1) * checkpoint_bytes
    existing = next(folder for folder in (run.resolve(), *run.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise InsufficientStorage(
            f"{run}: checkpoints take {wanted / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free: make room, or choose "
            f"another directory"
        )
