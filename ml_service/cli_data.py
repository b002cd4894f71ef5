"""The verbs `data add`, `data list` and `data show`: the data set that grows, on the store itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_service.cli_store import actor, opened_store

if TYPE_CHECKING:
    from ml_service.data.datasets import Datasets

data_app = typer.Typer(help="Add text to the data set, or look into its versions.", no_args_is_help=True)


@data_app.command("add")
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: .txt .md .py .jsonl .csv .parquet .zip")],
    name: Annotated[
        str | None,
        typer.Option(help="The source, in lower-case letters, digits and hyphens; by default the first path's."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Under which the text may be used.")] = "unknown",
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
) -> None:
    """Add files to the data set: validated, without duplicates and near duplicates, as a new version.

    Example: ml-service data add ~/notes --licence CC-BY-4.0 --tag notes
    """
    from lib.file_names import slug
    from ml_service.pipeline.adding import Details, add_files

    given = slug(name or paths[0].resolve().stem, fallback="texts")
    if name is not None and name != given:
        raise ValueError(f"{name!r} is no name of a source: {given} would be")
    details = Details(given, licence, tuple(tag or ()), actor())
    with opened_store() as (settings, database), _bar() as progress:
        added = add_files(database, settings.store, paths, details, progress)
    report = added.report
    if added.was_there:
        typer.echo(f"already there: batch {added.batch.id}, version {report.version}")
        return
    for row in report.rejected_rows:
        typer.echo(f"left out: {row.file}{f':{row.row}' if row.row is not None else ''}: {row.reason}", err=True)
    typer.echo(
        f"{report.accepted:,} accepted ({report.bytes:,} bytes), {report.duplicate:,} duplicate, "
        f"{report.near_duplicate:,} near duplicate, {report.rejected:,} rejected: version {report.version}"
    )


@data_app.command("list")
def list_() -> None:
    """Print the versions of the data set, newest first."""
    from ml_service.data.datasets import counts_in
    from ml_service.data.version_manifest import total

    with _datasets() as datasets:
        typer.echo(f"{'version':>7}  {'records':>10}{'bytes':>16}  {'source':<24}{'added':<18}{'by'}")
        for added in datasets.history(limit=1000):
            amount = total(counts_in(added.version))
            when = f"{added.version.created:%Y-%m-%d %H:%M}"
            typer.echo(
                f"{added.version.number:>7}  {amount.records:>10,}{amount.bytes:>16,}  {added.batch.name:<24}{when:<18}"
                f"{added.batch.actor}"
            )


@data_app.command("show")
def show(version: Annotated[int, typer.Argument(help="Its number; `ml-service data list` lists them.")]) -> None:
    """Print what a version holds, by split and source, and which upload made it."""
    from ml_service.data.batch_report import BatchReport

    with _datasets() as datasets:
        added, manifest = datasets.added(version), datasets.manifest(version)
    typer.echo(f"{'split':<12}{'source':<24}{'records':>10}{'bytes':>16}")
    for split, sources in manifest.counts.items():
        for source, amount in sources.items():
            typer.echo(f"{split:<12}{source:<24}{amount.records:>10,}{amount.bytes:>16,}")
    report, batch = BatchReport.model_validate(added.batch.report), added.batch
    tags = f", tags {', '.join(batch.tags)}" if batch.tags else ""
    typer.echo(f"added by {batch.actor} at {batch.created:%Y-%m-%d %H:%M}: {batch.name}, licence {batch.licence}{tags}")
    left_out = {"duplicate": report.duplicate, "near duplicate": report.near_duplicate} | report.rejected_by_reason
    for reason, count in left_out.items():
        if count:
            typer.echo(f"left out: {count:,} {reason}")
    typer.echo(f"fingerprint {manifest.fingerprint}")


@contextmanager
def _datasets() -> Iterator[Datasets]:
    from ml_service.data.datasets import Datasets

    with opened_store() as (settings, database):
        yield Datasets(database, settings.store)


@contextmanager
def _bar() -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(desc="add", unit=" records", mininterval=0.2 if sys.stderr.isatty() else 30.0) as bar:
        yield lambda done: bar.update(done - bar.n) and None
