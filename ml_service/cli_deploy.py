"""The verbs `deploy`, `rollback` and `deployments`: on the store itself; servers that run follow within seconds."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ml_service.cli_store import actor, opened_store

DEFAULT_PERCENT = 10.0
Reason = Annotated[str, typer.Option(help="Kept in the history.")]


def deploy(
    experiment: Annotated[int, typer.Argument(help="The experiment's number; `ml-service experiments` lists them.")],
    strategy: Annotated[
        Literal["replace", "shadow", "canary"], typer.Option(help="In place of the active model, or beside it.")
    ] = "replace",
    percent: Annotated[float, typer.Option(min=0, max=100, help="Of the requests, for a canary.")] = DEFAULT_PERCENT,
    reason: Reason = "",
) -> None:
    """Let an experiment's bundle prove itself here and make it what answers; running servers follow by themselves.

    Example: ml-service deploy 7 --strategy canary --percent 10
    """
    from ml_service.data.deployments import Order
    from ml_service.pipeline.deploy import Deployer, in_words

    share = percent if strategy == "canary" else None
    with opened_store() as (settings, database):
        order = Order(experiment, actor(), reason, strategy, share)
        typer.echo(in_words(Deployer(database, settings).deploy(order)))


def rollback(
    only: Annotated[
        Literal["shadow", "canary"] | None, typer.Option(help="Take just this away; the active model stays.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Back to what answered before; again is one further back, never to what has just been left.

    Example: ml-service rollback --reason "answers in capitals"
    """
    from ml_service.pipeline.deploy import Deployer, in_words

    with opened_store() as (settings, database):
        deployer = Deployer(database, settings)
        if only is None:
            typer.echo(in_words(deployer.roll_back(actor(), reason)))
        else:
            ended = deployer.end(only, actor(), reason)
            typer.echo(f"experiment {ended.experiment_id} is no {only} any more")


def deployments(limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 20) -> None:
    """What answers, what was deployed before, by whom and why, and who has loaded it.

    Example: ml-service deployments --limit 5
    """
    from ml_service.data.deployments import Deployments
    from ml_service.data.replicas import Replicas

    with opened_store() as (_, database):
        stored, living = Deployments(database), Replicas(database).living()
        history = stored.history(limit)
        names = stored.names_of(history)
        typer.echo(f"{'generation':>10}  {'state':<8}{'strategy':<10}{'experiment':<28}{'when':<21}{'who and why'}")
        for row in history:
            name = f"{row.experiment_id} {names[row.experiment_id]}"
            share = f" {row.percent:g} %" if row.strategy == "canary" else ""
            why = "; ".join(part for part in (row.reason, row.error) if part)
            typer.echo(
                f"{row.generation or '-':>10}  {row.state:<8}{row.strategy + share:<10} {name:<27.27} "
                f"{row.created:%Y-%m-%d %H:%M:%S}  {row.actor}{': ' if why else ''}{why}"
            )
        generation = stored.generation()
        for each in living:
            loaded = "has it" if each.generation >= generation else f"is at {each.generation}"
            typer.echo(f"{each.id} {loaded}{': ' + each.detail if each.detail else ''}")
