"""The verbs of learning: `retrain`, `experiments`, `worker`; they work on the store, with or without a server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from ml_service.cli_store import actor, opened_store
from ml_service.cli_words import setting
from ml_service.common.settings import Settings

if TYPE_CHECKING:
    from ml_service.data.database import Database
    from ml_service.data.tables import Experiment

experiments_app = typer.Typer(help="Look at experiments, compare them, stop one, keep one.", no_args_is_help=True)
Identifier = Annotated[int, typer.Argument(help="Number of the experiment.")]
_FOLLOW_EVERY_S = 1.0


def retrain(
    experiment_name: Annotated[str | None, typer.Option("--name", help="Name of the experiment.")] = None,
    start_from: Annotated[
        str, typer.Option(help="`active`, `scratch`, or the number of an experiment to begin with.")
    ] = "active",
    dataset_version: Annotated[int | None, typer.Option(help="The newest where not given.")] = None,
    replay: Annotated[float, typer.Option(help="Share of the training for what the model knew before.")] = 0.6,
    seconds: Annotated[float | None, typer.Option(help="Budget in seconds (300 where none is given),")] = None,
    tokens: Annotated[int | None, typer.Option(help="or in tokens,")] = None,
    steps: Annotated[int | None, typer.Option(help="or in updates.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: a hyperparameter, such as learning_rate=0.001.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="single, ddp or fsdp.")] = "single",
    deploy_if_better: Annotated[
        bool, typer.Option(help="Deploy it by itself where it is better on the new and not much worse on the old.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Stay and watch.")] = False,
) -> None:
    """Queue a retraining. A running server does it, or `ml-service worker`.

    Example: ml-service data add notes.txt && ml-service retrain --seconds 300 --deploy-if-better --follow
    """
    from ml_service.pipeline.retrain import Retrainer, RetrainWish

    budget = {name: value for name, value in (("seconds", seconds), ("tokens", tokens), ("steps", steps)) if value}
    wish = RetrainWish.model_validate(
        {
            "experiment_name": experiment_name,
            "start_from": int(start_from) if start_from.isdecimal() else start_from,
            "dataset_version": dataset_version,
            "replay": replay,
            "budget": budget or {"seconds": 300},
            "hyperparameters": dict(map(setting, set_ or [])),
            "strategy": strategy,
            "deploy_if": {} if deploy_if_better else None,
        }
    )
    with opened_store() as (settings, database):
        experiment = Retrainer(database, settings.store).ask(wish, actor()).experiment
        typer.echo(f"experiment {experiment.id} ({experiment.name}) is queued")
        if follow:
            _follow(database, settings.store, experiment.id)


@experiments_app.command("list")
def experiments_list(
    state: Annotated[list[str] | None, typer.Option(help="Only those in this state; repeatable.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 30,
) -> None:
    """Print experiments, newest first."""
    from ml_service.data.experiments import Experiments

    with opened_store() as (settings, database):
        found = Experiments(database, settings.store).find(tuple(state or ()), limit=limit)
        typer.echo(f"{'id':>5} {'state':<10} {'kind':<8} {'parent':>6} {'finished':<17} {'name':<24} scores")
        for each in found:
            finished = each.finished.strftime("%Y-%m-%d %H:%M") if each.finished else each.phase or ""
            parent = "" if each.parent_id is None else each.parent_id
            facts = f"{each.id:>5} {each.state:<10} {each.kind:<8} {parent:>6} {finished:<17} {each.name:<24}"
            typer.echo(f"{facts} {_scores(each)}")


@experiments_app.command("show")
def experiments_show(experiment_id: Identifier) -> None:
    """Print all that is remembered of an experiment, as JSON."""
    from ml_service.pipeline.account import account_of

    with opened_store() as (settings, database):
        typer.echo(json.dumps(account_of(database, settings.store, experiment_id), indent=2, default=str))


@experiments_app.command("compare")
def experiments_compare(
    experiment_ids: Annotated[list[int], typer.Argument(help="Numbers of two or more experiments.")],
) -> None:
    """Print where plans and scores differ, as JSON."""
    from ml_service.pipeline.account import compare

    with opened_store() as (settings, database):
        typer.echo(json.dumps(compare(database, settings.store, experiment_ids), indent=2, default=str))


@experiments_app.command("cancel")
def experiments_cancel(experiment_id: Identifier) -> None:
    """Stop an experiment; what it has learned by then is kept."""
    from ml_service.pipeline.retrain import Retrainer

    with opened_store() as (settings, database):
        state = Retrainer(database, settings.store).cancel(experiment_id, actor())
        typer.echo(f"experiment {experiment_id} {'is cancelled' if state == 'cancelled' else 'is asked to stop'}")


@experiments_app.command("pin")
def experiments_pin(
    experiment_id: Identifier, unpin: Annotated[bool, typer.Option(help="Let retention have it again.")] = False
) -> None:
    """Keep an experiment's bundle for ever."""
    from ml_service.data.experiments import Experiments

    with opened_store() as (settings, database):
        Experiments(database, settings.store).pin(experiment_id, not unpin, actor())


@experiments_app.command("follow")
def experiments_follow(experiment_id: Identifier) -> None:
    """Watch an experiment until it ends."""
    with opened_store() as (settings, database):
        _follow(database, settings.store, experiment_id)


def worker(
    until_idle: Annotated[
        float | None, typer.Option(help="End where there was nothing to do for so many seconds.")
    ] = None,
) -> None:
    """Do the queued jobs, one after the other: trainings, deployments by the gate, retention.

    Example: ML_SERVICE_WORKER=separate ml-service serve & ml-service worker
    """
    from ml_service.pipeline.worker import work
    from ml_service.utils.logs import configure_early, configure_logs
    from ml_service.utils.tracing import start_tracing

    configure_early("worker")
    settings = Settings()
    configure_logs(settings.log_level, settings.log_format, "worker")
    start_tracing(settings.otlp_endpoint, "worker", with_texts=settings.trace_texts)
    work(settings, until_idle)


def _follow(database: Database, store: Path, experiment_id: int) -> None:
    from ml_service.data.experiments import FINISHED, Experiments
    from ml_service.data.jobs import Jobs

    experiments, jobs = Experiments(database, store), Jobs(database)
    with tqdm(total=100.0, bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}", dynamic_ncols=True) as bar:
        while True:
            experiment, job = experiments.get(experiment_id), jobs.of_experiment(experiment_id)
            progress = job.progress if job is not None else {}
            bar.set_description_str(experiment.phase or experiment.state)
            bar.update(100.0 * progress.get("share", 0.0) - bar.n)
            if "train_loss" in progress:
                rate = progress.get("tokens_per_second", 0)
                bar.set_postfix_str(f"loss {progress['train_loss']:.4f}, {rate:,.0f} tokens/s")
            if experiment.state in FINISHED:
                break
            time.sleep(_FOLLOW_EVERY_S)
    verdict = experiment.summary.get("verdict") or {}
    typer.echo(f"experiment {experiment_id} {experiment.state}: {experiment.error or _scores(experiment)}")
    if verdict:
        typer.echo(f"{'to be deployed' if verdict['passed'] else 'not deployed'}: {verdict['reason']}")


def _scores(experiment: Experiment) -> str:
    scores: dict[str, Any] = experiment.summary.get("scores", {})
    told = [
        f"{source} {metrics['bits_per_byte']:.3f}" for source, metrics in scores.items() if isinstance(metrics, dict)
    ]
    return ", ".join(told)
