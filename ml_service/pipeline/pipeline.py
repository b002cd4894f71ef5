"""The pipeline's three stages over one directory, as `dvc.yaml` runs them: extract data, train, judge the bundle."""

from __future__ import annotations

import asyncio
import csv
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from operator import attrgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.document_shards import iterate_documents
from lib.files import staged, write_json
from lib.scores import Score
from lib.text_data import Document, SourceFile
from ml_service.common.bundle import Lineage
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.live import open_live_model
from ml_service.inference.scoring import JUDGING_CHUNK, score_texts
from ml_service.pipeline.layout import (
    BASELINE_SCORES,
    BUNDLE,
    CURVE_PICTURE,
    DATA,
    RUN,
    SAMPLES,
    SCORES,
    TRAINING_CURVE,
    TRAINING_METRICS,
    VALIDATION_CURVE,
)
from ml_service.pipeline.parameters import InferenceModel, Parameters
from ml_service.pipeline.stages import Sources, export_model, extract_data, train_model
from ml_service.training.plan import PLAN_FILE, TrainingPlan, load_plan
from ml_service.training.run_files import PROGRESS_FILE, is_finished, load_facts
from ml_service.utils.telemetry import Telemetry
from ml_service.utils.tracing import detail

STAGES = ("extract_data", "train_model", "inference_model")


def run_stage(name: str, parameters: Parameters, directory: Path, *, fresh: bool) -> None:
    """Run one stage from files to files; `fresh` does away with what it made before.

    Raises KeyError for a stage that there is not.
    """
    stages = {"extract_data": _extract_data, "train_model": _train_model, "inference_model": _inference_model}
    stages[name](parameters, directory, fresh)


def _extract_data(parameters: Parameters, directory: Path, fresh: bool) -> None:
    wanted = parameters.extract_data
    _clear(fresh, directory / DATA)
    parts = tuple(SourceFile(part.path, part.path.name, part.source, part.split) for part in wanted.parts)
    sources = Sources(
        wanted.stdlib, wanted.packages, wanted.folders, wanted.hub, wanted.held_out, parts, wanted.packages_share
    )
    extract_data(sources, directory / DATA, wanted.vocabulary_size, wanted.validation_share, wanted.tokenizer)


def _train_model(parameters: Parameters, directory: Path, fresh: bool) -> None:
    from ml_service.training.card import draw_curve
    from ml_service.training.progress import ProgressLog

    run = directory / RUN
    plan = TrainingPlan(
        **({"experiment": "pipeline"} | parameters.train_model | {"data": directory / DATA, "run": run})
    )
    # An interrupted run goes on; one with another recipe or other data is in the way.
    if fresh and (run / PLAN_FILE).is_file():
        _clear(load_plan(run).recipe != plan.recipe or is_finished(run), run)
    with detail("train", ml_service__experiment=parameters.export_model.experiment_id):
        model = train_model(plan)
    if not model:
        return  # the first process does the rest
    _clear(fresh, directory / BUNDLE)
    wanted = parameters.export_model
    lineage = Lineage(experiment_id=wanted.experiment_id, parent_experiment_id=wanted.parent_experiment_id)
    with detail("export", ml_service__precision=wanted.precision):
        manifest = export_model(run, directory / BUNDLE, wanted.precision, wanted.licence, lineage)
    facts = load_facts(run)
    names = ("steps", "tokens", "seconds", "tokens_per_second", "parameters", "peak_memory_mib")
    write_json(directory / TRAINING_METRICS, {name: facts[name] for name in names} | dict(manifest.metrics))
    points = ProgressLog(run / PROGRESS_FILE).points()
    draw_curve(points, directory / CURVE_PICTURE)
    _write_csv(directory / TRAINING_CURVE, ("tokens", "train_loss", "learning_rate", "tokens_per_second"), points)
    _write_csv(directory / VALIDATION_CURVE, ("tokens", "source", "bits_per_byte"), _validation_points(points))


def _inference_model(parameters: Parameters, directory: Path, _: bool) -> None:
    wanted, bundle = parameters.inference_model, directory / BUNDLE
    if wanted.baseline is not None:
        with detail("score baseline"):
            write_json(directory / BASELINE_SCORES, _scores(wanted, wanted.baseline, directory / DATA))
    with detail("score"):
        write_json(directory / SCORES, _scores(wanted, bundle, directory / DATA))
    with detail("write samples"), staged(directory / SAMPLES) as temporary:
        temporary.write_text(_samples(wanted, bundle), encoding="utf-8")


def _scores(wanted: InferenceModel, bundle: Path, data: Path) -> dict[str, Any]:
    """Likelihood of held-out documents in the session that serves, source by source."""
    totals: defaultdict[str, Score] = defaultdict(lambda: Score(0.0, 0, 0))
    engine = open_live_model(bundle, Settings(prefix_cache_mib=0, prefill_chunk=JUDGING_CHUNK), Telemetry()).engine

    async def score() -> None:
        documents = _first_bytes(iterate_documents(data, "validation"), wanted.max_bytes)
        with tqdm(desc="score", unit=" documents") as bar:
            async with aclosing(score_texts(engine, documents, attrgetter("text"))) as scored:
                async for document, likelihood in scored:
                    totals[document.source] += Score(likelihood.nats, likelihood.tokens, document.size_bytes)
                    bar.update()

    try:
        asyncio.run(score())
    finally:
        engine.stop()
    return {
        source: {
            "bits_per_byte": round(total.bits_per_byte, 6),
            "byte_perplexity": round(total.byte_perplexity, 6),
            "loss": round(total.loss, 6),
            "tokens": total.tokens,
            "bytes": total.bytes,
        }
        for source, total in totals.items()
    }


def _first_bytes(documents: Iterable[Document], most: int) -> Iterator[Document]:
    """The first documents of each source, until they have so many bytes together."""
    taken: Counter[str] = Counter()
    for document in documents:
        if taken[document.source] < most:
            taken[document.source] += document.size_bytes
            yield document


def _samples(wanted: InferenceModel, bundle: Path) -> str:
    engine = open_live_model(bundle, Settings(slots=len(wanted.prompts) or 1), Telemetry()).engine
    parameters = GenerationParameters(
        max_new_tokens=wanted.max_new_tokens, temperature=wanted.temperature,
        repetition_penalty=wanted.repetition_penalty, seed=wanted.seed,
    )  # fmt: skip

    async def continuations() -> list[str]:
        prompts = [await engine.encode(prompt) for prompt in wanted.prompts]
        answers = [engine.complete(ids, parameters, f"sample-{number}") for number, ids in enumerate(prompts)]
        return [answer.text for answer in await asyncio.gather(*answers)]

    try:
        texts = asyncio.run(continuations())
    finally:
        engine.stop()
    pieces = [f"```\n{prompt}{text}\n```\n" for prompt, text in zip(wanted.prompts, texts, strict=True)]
    return "# What the model continues\n\n" + "\n".join(pieces)


def _validation_points(points: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    suffix = "_bits_per_byte"
    for point in points:
        for name, value in point.items():
            if name.endswith(suffix):
                source = name.removeprefix("validation_").removesuffix(suffix)
                yield {"tokens": point["tokens"], "source": source, "bits_per_byte": value}


def _write_csv(path: Path, columns: tuple[str, ...], points: Iterable[dict[str, Any]]) -> None:
    """The points that have all of the columns."""
    with staged(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([point[name] for name in columns] for point in points if point.keys() >= set(columns))


def _clear(wanted: bool, directory: Path) -> None:
    if wanted:
        shutil.rmtree(directory, ignore_errors=True)
