"""The verb `evaluate`: a bundle is judged on somebody's own file, here and now, without a server."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ml_service.cli_store import opened_store
from ml_service.cli_words import pair
from ml_service.common.settings import Settings

if TYPE_CHECKING:
    from ml_service.pipeline.judging.report import Report


def evaluate(
    file: Annotated[Path, typer.Argument(help=".csv, .jsonl, .parquet, or .zip with one of these and its images.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle to judge; by default the shipped one.")] = None,
    experiment: Annotated[int | None, typer.Option(help="Judge this experiment of the store instead.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Texts whose likelihood is measured.")] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Prompts that are continued.")] = None,
    target_column: Annotated[str | None, typer.Option(help="What should come out of a prompt or an image.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Names of images in the archive.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Labels, told by the likelihood of each.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="LABEL=TEXT that stands for it; may be repeated.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens that continue a prompt.")] = 64,
    stop: Annotated[list[str] | None, typer.Option(help="A continuation ends before it; may be repeated.")] = None,
    rows: Annotated[Path | None, typer.Option(help="Where to write a table with every row.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Judge a bundle on a file; columns with usual names are found by themselves.

    Example: ml-service evaluate data/samples/prompts.csv --max-new-tokens 16 --rows rows.csv
    """
    from tqdm import tqdm

    from ml_service.common.evaluation_options import EvaluationOptions
    from ml_service.pipeline.judging.question import ROWS_FILE, Question
    from ml_service.pipeline.judging.stage import judge

    options = EvaluationOptions(
        text_column=text_column, prompt_column=prompt_column, target_column=target_column, image_column=image_column,
        label_column=label_column, labels=dict(map(pair, label or [])), metrics=metric, stop=stop or [],
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    question = Question(bundle=_bundle(bundle, experiment), file=str(file.resolve()), options=options)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    with TemporaryDirectory() as folder, tqdm(desc="judge", unit=" rows") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = judge(Path(folder), question, show)
        if rows is not None:
            shutil.copyfile(Path(folder) / ROWS_FILE, rows)
    typer.echo(report.model_dump_json(indent=2) if as_json else "\n".join(_lines(report)))


def _bundle(bundle: Path | None, experiment: int | None) -> Path:
    if bundle is not None and experiment is not None:
        raise ValueError("give --bundle or --experiment, not both")
    if experiment is None:
        return bundle if bundle is not None else Settings().bundle_directory
    from ml_service.data.experiments import Experiments

    with opened_store() as (settings, database):
        return Experiments(database, settings.store).bundle_of(experiment).path


def _lines(report: Report) -> list[str]:
    judged = ", ".join(f"{role} {name!r}" for role, name in report.columns.model_dump(exclude_none=True).items())
    lines = [f"{report.count:,} rows by {judged}; {report.failed:,} could not be judged"]
    for name, figure in report.metrics.items():
        lines.append(f"{name:<18}{_told(figure.value):>14}   {_told(figure.low)} to {_told(figure.high)}")
    lines += [f"row {each.row}: {each.error}" for each in report.errors]
    if report.worst:
        worst = report.worst[0]
        lines.append(f"the worst row, {worst.row}: {worst.text[:80]!r}")
    return lines


def _told(value: float | None) -> str:
    return "infinite" if value is None else f"{value:,.4f}" if abs(value) < 1e6 else f"{value:.4g}"
