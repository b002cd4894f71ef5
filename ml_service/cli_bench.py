"""The verb `bench`: the load generator's options, and in which order its parts are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ml_service.common.settings import Settings


def bench(
    url: Annotated[str, typer.Option(help="Where the service listens.")] = "http://127.0.0.1:8000",
    route: Annotated[Literal["forward", "completions"], typer.Option(help="/forward or /v1/completions.")] = "forward",
    stream: Annotated[bool, typer.Option(help="Ask for streams: only they tell when a token came.")] = True,
    model: Annotated[str, typer.Option(help="The model's name, which /v1/completions wants.")] = "active",
    api_key: Annotated[
        str | None, typer.Option(help="The service's key; the one in the settings where not given.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request has failed.")] = 120.0,
    engine: Annotated[bool, typer.Option("--engine", help="Measure the engine in this process, without HTTP.")] = False,
    bundle: Annotated[Path | None, typer.Option(help="The engine's bundle; the shipped one by default.")] = None,
    concurrency: Annotated[str, typer.Option(help="Requests at a time; 1,8,32 is one after the other.")] = "8",
    rate: Annotated[float | None, typer.Option(help="Or requests a second, at random times, whoever waits.")] = None,
    requests: Annotated[int | None, typer.Option(help="End after so many requests,")] = None,
    seconds: Annotated[float | None, typer.Option(help="or start none after so many seconds; 10 by default.")] = None,
    warmup: Annotated[int, typer.Option(help="Requests before, which are not counted.")] = 4,
    prompt_tokens: Annotated[str, typer.Option(help="Tokens of a prompt: 128, or 16:256.")] = "16:256",
    new_tokens: Annotated[str, typer.Option(help="Tokens of an answer: 64, or 64:128.")] = "64:128",
    shared_prefix: Annotated[float, typer.Option(help="Share of each prompt that is the same for all.")] = 0.0,
    ignore_eos: Annotated[bool, typer.Option(help="Generate past the end of a text, to the length drawn.")] = True,
    words: Annotated[bool, typer.Option("--words", help="Prompts of words, where token ids would do.")] = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed asks the same at the same times.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Directory for report.json, requests.csv, report.png.")] = None,
    max_failures: Annotated[int, typer.Option(help="Exit with code 1 when more requests failed.")] = 0,
) -> None:
    """Put load on a running service, or on the engine alone, and say what its clients would feel.

    Example: ml-service bench --concurrency 1,8,32 --requests 128 --output bench
    """
    from ml_service.pipeline.load.bench import finish, loads, run_bench, service_or_engine
    from ml_service.pipeline.load.http_target import Service
    from ml_service.pipeline.load.workload import Span, Workload

    lengths = Span.parse(prompt_tokens), Span.parse(new_tokens)
    workload = Workload(*lengths, shared_prefix, temperature, seed, ignore_eos, words)
    planned = loads(concurrency, rate, requests, seconds, warmup)
    key = api_key or _own_key()
    service = None if engine else Service(url, route, stream, model, key, timeout)
    with service_or_engine(service, bundle) as target:
        report = run_bench(target, workload, planned)
    raise typer.Exit(finish(report, output, max_failures))


def _own_key() -> str | None:
    """The service's, where this is its machine or container: from the environment or a secret file."""
    key = Settings().api_key
    return key.get_secret_value() if key is not None else None
