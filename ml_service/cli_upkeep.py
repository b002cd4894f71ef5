"""The verbs of upkeep: `feedback export`, `audit verify`, `retention`, `migrate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ml_service.cli_store import actor, opened_store

feedback_app = typer.Typer(help="What people thought of answers.", no_args_is_help=True)
audit_app = typer.Typer(help="Who did what.", no_args_is_help=True)


@feedback_app.command("export")
def feedback_export(
    name: Annotated[str, typer.Option(help="Name of the source in the data set.")] = "feedback",
    dry_run: Annotated[bool, typer.Option(help="Print what would become data, a JSON object a line.")] = False,
) -> None:
    """Let corrections and accepted answers that are not data yet become a data batch.

    Example: ml-service feedback export && ml-service retrain --deploy-if-better
    """
    from ml_service.data.feedback import FeedbackStore
    from ml_service.pipeline.lessons import export_lessons

    with opened_store() as (settings, database):
        if dry_run:
            for lesson in FeedbackStore(database).lessons():
                typer.echo(json.dumps({"feedback": lesson.feedback_id, "text": lesson.text}, ensure_ascii=False))
            return
        added = export_lessons(database, settings.store, actor(), name)
        if added is None:
            typer.echo("there is no feedback that is not data yet")
            return
        version = f"version {added.version.number}" if added.version is not None else "no new version"
        typer.echo(f"batch {added.batch.id}: {added.report.accepted} accepted, {version}")


@audit_app.command("verify")
def audit_verify(
    seal: Annotated[
        str | None, typer.Option(help="As an earlier run printed it: what it sealed has to be there still.")
    ] = None,
) -> None:
    """Check that no event of the audit log was changed, taken out or put in; exit code 1 where one was.

    Who can write to the database can make a whole new log, or leave out the last events: keep the seal elsewhere.
    """
    from ml_service.data import audit

    with opened_store() as (_, database):
        count, problem = audit.verify(database)
        last = audit.latest(database, 1)
        if problem is None and seal is not None and not audit.has_seal(database, seal):
            problem = "none of them has the seal that was given: this is another log, or its end was left out"
    if problem is not None:
        raise ValueError(f"{count:,} events hold together, then: {problem}")
    typer.echo(f"all {count:,} events hold together{f'; seal {last[0].hash}' if last else ''}")


@audit_app.command("list")
def audit_list(limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 50) -> None:
    """Print events, newest first."""
    from ml_service.data import audit

    with opened_store() as (_, database):
        for event in audit.latest(database, limit):
            change = json.dumps(event.after, ensure_ascii=False)
            typer.echo(
                f"{event.at:%Y-%m-%d %H:%M:%S}  {event.actor:<24} {event.action:<16} {event.target:<20} {change}"
            )


def retention() -> None:
    """Remove what no deployment needs and nobody pinned, and request logs that have had their time.

    A server does so once a day by itself.
    """
    from ml_service.pipeline.retention import run_retention

    with opened_store() as (settings, database):
        cleaned = run_retention(database, settings)
    typer.echo(
        f"removed the files of {cleaned.experiments} experiments ({cleaned.size_bytes / 1e6:,.1f} MB) and "
        f"{cleaned.requests:,} logged requests"
    )


def migrate() -> None:
    """Bring the database's schema up to date; every verb and the server do so by themselves where they have to."""
    with opened_store() as (_, database):
        typer.echo("PostgreSQL is up to date" if database.is_postgresql else "SQLite is up to date")
