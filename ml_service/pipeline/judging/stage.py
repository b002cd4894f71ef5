"""Judging as a stage: a folder with a question and a file becomes one with a report and a table of rows."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lib.files import staged
from lib.in_order import map_in_order
from lib.memory import at_most_more
from ml_service.common.errors import BadRequest, ServiceError, TooLarge
from ml_service.common.evaluation_options import Columns, EvaluationOptions, choose_columns
from ml_service.common.settings import Settings
from ml_service.common.types import GenerationParameters
from ml_service.inference.engine import Engine
from ml_service.inference.image import open_text_reader
from ml_service.inference.live import open_live_model
from ml_service.inference.scoring import JUDGING_CHUNK
from ml_service.pipeline.judging.judged import Judged, Task
from ml_service.pipeline.judging.label_task import MAX_LABELS, LabelTask
from ml_service.pipeline.judging.question import ROWS_FILE, SCRATCH, Question
from ml_service.pipeline.judging.reading_task import ReadingTask
from ml_service.pipeline.judging.report import Account, Report
from ml_service.pipeline.judging.tables import Archive, Row, Table, open_upload
from ml_service.pipeline.judging.target_task import TargetTask
from ml_service.pipeline.judging.text_task import TextTask
from ml_service.utils.telemetry import Telemetry

Progress = Callable[[int, int], None]
"""Told how many rows are done, and of how many."""
_LONGEST_S = 30 * 86_400.0
_READING_BYTES = 100 << 20
"""Rows as long as they may be take a third of it."""


@dataclass(frozen=True)
class _Work:
    """All that judging needs."""

    table: Table
    columns: Columns
    tasks: list[Task]
    width: int
    """How many rows are judged at a time."""


def judge(folder: Path, question: Question, progress: Progress = lambda done, total: None) -> Report:
    """Judge every row of the file. Raises BadRequest, TooLarge, BundleRefused in words; a bad row fails alone."""
    started = time.perf_counter()
    with ExitStack() as stack:
        # Beside the data, for a disk of its own may have no room for what an archive holds.
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=folder, prefix=SCRATCH)))
        table, archive = open_upload(folder / question.file, scratch, stack)
        columns = choose_columns(question.options, table.columns, archive is not None)
        total, labels = _looked_through(table, columns)
        work = _prepare(question, table, archive, columns, labels, scratch, stack)
        with staged(folder / ROWS_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as rows:
            account = Account(work.tasks, columns, rows)
            asyncio.run(_judge_all(work, account, lambda done: progress(done, total)))
        wanted = question.options.metrics
        duration_ms = round((time.perf_counter() - started) * 1e3, 1)
        return account.report(lambda name: wanted is None or name in wanted, duration_ms)


async def _judge_all(work: _Work, account: Account, progress: Callable[[int], None]) -> None:
    async def judge_row(row: Row) -> tuple[Row, list[Judged] | ServiceError]:
        try:
            if row.broken is not None:
                raise BadRequest(row.broken)
            return row, list(await asyncio.gather(*(task.judge(row) for task in work.tasks)))
        except ServiceError as error:  # a bad row fails alone
            return row, error

    async with aclosing(map_in_order(judge_row, work.table.rows(work.columns.names), work.width)) as judged:
        done = itertools.count(1)
        async for row, found in judged:
            account.add(row, found)
            progress(next(done))


def _prepare(
    question: Question,
    table: Table,
    archive: Archive | None,
    columns: Columns,
    labels: list[str],
    scratch: Path,
    stack: ExitStack,
) -> _Work:
    options, settings = question.options, _settings(question)
    if columns.image is not None:
        assert archive is not None and columns.target is not None, "columns were chosen so"
        reader = open_text_reader(settings.threads)
        task = ReadingTask(reader, archive, columns.image, columns.target, settings.max_image_pixels, scratch)
        return _Work(table, columns, [task], width=2)
    engine = open_live_model(question.bundle, settings, Telemetry()).engine
    stack.callback(engine.stop)
    return _Work(table, columns, _text_tasks(engine, options, columns, labels), 2 * engine.slots)


def _text_tasks(engine: Engine, options: EvaluationOptions, columns: Columns, labels: list[str]) -> list[Task]:
    if columns.prompt is not None:
        assert columns.target is not None, "columns were chosen so"
        parameters = GenerationParameters(max_new_tokens=options.max_new_tokens, stop=options.stop)
        with_rouge = options.metrics is None or "rougeL" in options.metrics
        return [TargetTask(engine, columns.prompt, columns.target, parameters, with_rouge)]
    assert columns.text is not None, "columns were chosen so"
    tasks: list[Task] = [TextTask(engine, columns.text)]
    if columns.label is not None:
        tasks.append(LabelTask(engine, columns.text, columns.label, labels, options.labels, options.delimiter))
    return tasks


def _looked_through(table: Table, columns: Columns) -> tuple[int, list[str]]:
    """How many rows there are, and every label that occurs.

    Raises BadRequest where there are too many to be labels, TooLarge where the file was made to swell.
    """
    labels: set[str] = set()
    count = 0
    try:
        with at_most_more(_READING_BYTES):
            for row in table.rows(columns.names):
                count += 1
                if columns.label is not None and columns.label in row.cells:
                    labels.add(row.cells[columns.label])
                if len(labels) > MAX_LABELS:
                    what = f"{columns.label!r} has more than {MAX_LABELS} different values, so it holds no labels"
                    raise BadRequest(f"label_column: {what}", [("label_column", "too many values")])
    except MemoryError as error:
        raise TooLarge("the rows of the file take more memory than there is for reading it") from error
    return count, sorted(labels)


def _settings(question: Question) -> Settings:
    """A row has as long as it takes, a step is as long as it pays; the logits are those of the server, to the bit."""
    return Settings(**({"request_timeout_s": _LONGEST_S, "prefill_chunk": JUDGING_CHUNK} | question.settings))
