"""The command line: `ml-service VERB`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from lib.files import NO_ROOM_CODE, NO_ROOM_SAID, is_full_disk
from lib.interruption import TrainingStopped
from lib.processes import end_at_once_when_asked
from lib.validation import in_words
from ml_service.cli_bench import bench
from ml_service.cli_data import data_app
from ml_service.cli_deploy import deploy, deployments, rollback
from ml_service.cli_doctor import doctor
from ml_service.cli_evaluate import evaluate
from ml_service.cli_experiments import experiments_app, retrain, worker
from ml_service.cli_keys import keys_app
from ml_service.cli_page import page
from ml_service.cli_stage import stage
from ml_service.cli_store import settings_with
from ml_service.cli_upkeep import audit_app, feedback_app, migrate, retention
from ml_service.cli_words import pair, setting
from ml_service.common.bundle import Manifest, Precision
from ml_service.common.errors import ServiceError
from ml_service.utils.logs import tell_refusal
from ml_service.utils.tracing import start_tracing, stop_tracing

app = typer.Typer(
    help="The language model that a team owns: read text, train, export a self-proving bundle, serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(help="Turn text into a data set of token shards.", no_args_is_help=True)
bundle_app = typer.Typer(help="Look into a bundle, or let it prove itself.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")
app.add_typer(bundle_app, name="bundle")
app.add_typer(data_app, name="data")
app.add_typer(experiments_app, name="experiments")
app.add_typer(feedback_app, name="feedback")
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")
for verb in (doctor, bench, stage, evaluate, deploy, rollback, deployments, retrain, worker, page, retention, migrate):
    app.command()(verb)

Stored = Annotated[Precision, typer.Option(help="How the weights are stored.")]
Data = Annotated[Path, typer.Option("--data", help="Directory of the data set that `corpus build` made.")]


def main() -> None:
    """Run a verb; an error of the domain is one clear line and exit code 1, a full disk 74, a bug is a trace."""
    try:
        app()
    except Exception as error:
        if (sentence := _last_word(error)) is None:
            raise
        try:
            tell_refusal(sentence)
            sys.stderr.flush()
        except OSError:  # the log finds no room either: the code tells it, unless Python stumbles over it once more
            sys.stderr = None
        code = error.exit_code if isinstance(error, TrainingStopped) else 1
        raise SystemExit(NO_ROOM_CODE if code == 1 and is_full_disk(error) else code) from None
    finally:
        stop_tracing()


def _last_word(error: Exception) -> str | None:
    """None for a bug."""
    if isinstance(error, TrainingStopped | ServiceError):
        return str(error)
    if is_full_disk(error):
        return NO_ROOM_SAID
    if isinstance(error, ValidationError):
        return in_words(error)
    return str(error) if isinstance(error, OSError | ValueError) else None


@corpus_app.command("build")
def corpus_build(
    output: Annotated[Path, typer.Argument(help="Directory to make; it appears complete or not at all.")],
    stdlib: Annotated[bool, typer.Option(help="Python's own standard library, without its tests.")] = True,
    packages: Annotated[bool, typer.Option(help="Also the source of the packages that the lock file pins.")] = False,
    folder: Annotated[
        list[Path] | None, typer.Option(help="A folder or file of .txt .md .py .jsonl .csv .parquet; repeatable.")
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="A folder or file to validate with; then all the rest is for training. Repeatable."),
    ] = None,
    hub: Annotated[
        list[str] | None, typer.Option(help="A data set on the Hugging Face hub, NAME or NAME:CONFIG; repeatable.")
    ] = None,
    vocabulary_size: Annotated[int, typer.Option(help="Tokens of the byte-level BPE that is trained.")] = 8192,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this tokenizer.json and train none.")] = None,
    validation_share: Annotated[
        float, typer.Option(help="Share of documents held out, by their content's hash.")
    ] = 0.05,
) -> None:
    """Read text into Parquet shards and packed tokens: deduplicated, split, with a fingerprint.

    Example: ml-service corpus build data/store/corpora/mine --no-stdlib --folder ~/notes
    """
    from ml_service.pipeline.stages import Sources, extract_data

    sources = Sources(stdlib, packages, tuple(folder or ()), tuple(hub or ()), tuple(held_out or ()))
    extract_data(sources, output, vocabulary_size, validation_share, tokenizer)
    corpus_show(output)


@corpus_app.command("show")
def corpus_show(directory: Annotated[Path, typer.Argument(help="Directory of the data set.")]) -> None:
    """Print what a data set holds and what was left out, by reason; `rejected.jsonl` in it names each file."""
    from lib.token_shards import load_manifest

    manifest = load_manifest(directory)
    typer.echo(f"{'split':<12}{'source':<20}{'documents':>10}{'bytes':>14}{'tokens':>12}")
    for split, sources in manifest.parts.items():
        for source, part in sources.items():
            typer.echo(f"{split:<12}{source:<20}{part.documents:>10,}{part.bytes:>14,}{part.tokens:>12,}")
    for reason, count in manifest.rejected.items():
        typer.echo(f"left out: {count:,} {reason}")
    typer.echo(f"fingerprint {manifest.fingerprint}")


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="Directory of the run; one that was interrupted goes on.")],
    data: Data,
    experiment: Annotated[
        str | None, typer.Option(help="Name of the experiment; the run's directory by default.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Shape of the model: pico, nano, mini, small, base or 1b.")] = "nano",
    start_from: Annotated[
        Path | None, typer.Option(help="Begin with a trained model: the directory `model` of a run of this preset.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget in seconds,")] = None,
    tokens: Annotated[int | None, typer.Option(help="or in tokens,")] = None,
    steps: Annotated[int | None, typer.Option(help="or in updates: exactly one of the three.")] = None,
    mixture: Annotated[
        list[str] | None, typer.Option(help="SOURCE=SHARE of the windows; repeatable. By size where not given.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE: any other key of the plan, such as window=1024.")
    ] = None,
) -> None:
    """Train a model for a budget. Kill it and give the same command: it goes on from its last checkpoint.

    Example: ml-service train data/store/runs/first --data data/store/corpora/mine --preset nano --seconds 180
    """
    from ml_service.pipeline.stages import train_model
    from ml_service.training.plan import TrainingPlan

    given: dict[str, Any] = {"seconds": seconds, "tokens": tokens, "steps": steps, "start_from": start_from}
    if mixture:
        given["mixture"] = {key: float(value) for key, value in map(pair, mixture)}
    given |= dict(map(setting, set_ or []))
    plan = TrainingPlan(data=data, run=run, **({"experiment": experiment or run.name, "preset": preset} | given))
    typer.echo(f"trained: {train_model(plan)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    output: Annotated[Path, typer.Argument(help="Directory of the bundle; it appears proved or not at all.")],
    precision: Stored = "int8",
    licence: Annotated[str, typer.Option(help="The licence that the bundle names.")] = "MIT",
) -> None:
    """Export a trained model to an ONNX bundle that carries its provenance and proves itself.

    Example: ml-service export data/store/runs/first data/store/bundles/first
    """
    from ml_service.pipeline.stages import export_model

    _tell_of(export_model(run, output, precision, licence), output)


@app.command("import")
def import_(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="DIR_OR_HUB_NAME", help="Directory with config.json, safetensors, tokenizer.json; or a hub's name."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Directory of the bundle; it appears proved or not at all.")],
    precision: Stored = "int8",
    licence: Annotated[str, typer.Option(help="The licence that the bundle names.")] = "unknown",
) -> None:
    """Make a bundle of a checkpoint that transformers saved: Llama, Mistral, Qwen, Phi-3, Gemma and their like.

    Example: ml-service import ~/SmolLM2-135M data/store/bundles/smollm2
    or: ml-service import HuggingFaceTB/SmolLM2-135M data/store/bundles/smollm2
    """
    from ml_service.pipeline.stages import import_checkpoint

    _tell_of(import_checkpoint(checkpoint, output, precision, licence), output)


@bundle_app.command("verify")
def bundle_verify(directory: Annotated[Path, typer.Argument(help="Directory of the bundle.")]) -> None:
    """Check every hash, open the graph, replay the golden sample: what happens at every load."""
    from ml_service.pipeline.stages import verify_bundle

    verify_bundle(directory)
    typer.echo(f"{directory} has proved itself")


@bundle_app.command("show")
def bundle_show(directory: Annotated[Path, typer.Argument(help="Directory of the bundle.")]) -> None:
    """Print what a bundle is and where it comes from, as JSON."""
    from ml_service.common.bundle import load_manifest

    typer.echo(load_manifest(directory).model_dump_json(indent=2))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")],
    bundle: Annotated[Path | None, typer.Option(help="Directory of the bundle; the shipped one by default.")] = None,
    runtime: Annotated[Literal["onnx", "torch"], typer.Option(help="What runs the model.")] = "onnx",
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy; higher is more surprising.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest tokens; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of this mass.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Leave out tokens below this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes seen tokens less likely.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
) -> None:
    """Continue a text in the terminal, without a server.

    Example: ml-service generate "def read_lines(path):" --max-new-tokens 64
    """
    from ml_service.common.types import GenerationParameters
    from ml_service.pipeline.generate import write_continuation

    parameters = GenerationParameters(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, stop=stop or [], seed=seed,
    )  # fmt: skip
    text = sys.stdin.read() if prompt == "-" else prompt
    write_continuation(text, parameters, settings_with(bundle=bundle, runtime=runtime, slots=1), sys.stdout)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 8000).")] = None,
    store: Annotated[Path | None, typer.Option(help="Directory for what the service writes.")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle to deploy first; by default what was deployed last, else the shipped one."),
    ] = None,
    runtime: Annotated[Literal["onnx", "torch"] | None, typer.Option(help="What runs the model.")] = None,
) -> None:
    """Serve the deployed bundle over HTTP. Every option is also a variable, such as ML_SERVICE_HOST: docs/settings.md.

    Example: ml-service serve --bundle data/store/bundles/first --port 8080
    """
    end_at_once_when_asked()  # until it serves: nothing is under way yet
    from ml_service.backend.app import create_app
    from ml_service.backend.exposure import check_exposure
    from ml_service.backend.server import serve as run_server
    from ml_service.inference.handles import Live
    from ml_service.utils.logs import configure_early, configure_logs

    configure_early("server")
    settings = settings_with(host=host, port=port, store=store, bundle=bundle, runtime=runtime)
    configure_logs(settings.log_level, settings.log_format, "server")
    check_exposure(settings)
    start_tracing(settings.otlp_endpoint, "server", with_texts=settings.trace_texts)
    live = Live()
    app = create_app(settings, live)
    app.state.replica.open_at_start()  # before the server: what is refused is one sentence, and no port was opened
    run_server(app, settings, live)


def _tell_of(manifest: Manifest, bundle: Path) -> None:
    size_bytes = sum(file.stat().st_size for file in bundle.iterdir())
    typer.echo(f"exported and proved: {bundle} ({manifest.precision}, {size_bytes:,} bytes, commit {manifest.commit})")


if __name__ == "__main__":
    main()
