"""The verb `stage`: one step of the pipeline that `dvc.yaml` describes, with DVC or without."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from lib.processes import end_with_parent


def stage(
    name: Annotated[
        Literal["extract_data", "train_model", "inference_model"], typer.Argument(help="Which step to run.")
    ],
    params: Annotated[Path, typer.Option(help="The pipeline's parameters.")] = Path("params.yaml"),
    directory: Annotated[Path, typer.Option(help="Where the stages' files lie.")] = Path("data/store/pipeline"),
    fresh: Annotated[
        bool, typer.Option(help="Replace what this stage made with other parameters; it is refused otherwise.")
    ] = False,
    with_parent: Annotated[
        bool, typer.Option(hidden=True, help="End when standard input closes: the worker holds its other end.")
    ] = False,
) -> None:
    """Run one stage of the pipeline: read text; train and export; score the bundle and let it write samples.

    Example: ml-service stage extract_data && ml-service stage train_model && ml-service stage inference_model
    """
    from ml_service.pipeline.parameters import load_parameters
    from ml_service.pipeline.pipeline import run_stage
    from ml_service.utils.handing_on import in_child
    from ml_service.utils.logs import EventLogger
    from ml_service.utils.tracing import span

    log = EventLogger("stage")
    if with_parent:
        end_with_parent()
    is_first = os.environ.get("RANK", "0") == "0"  # of several processes that train together one makes spans
    above = in_child(traces=is_first)
    started = time.perf_counter()
    log.info("stage.began", stage=name)
    with span(f"run {name}", handed=above):
        run_stage(name, load_parameters(params), directory, fresh=fresh)
    log.info("stage.ended", stage=name, seconds=round(time.perf_counter() - started, 3))
