"""Stages, each a function from files to files: extract data, train a model, export a bundle."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib import corpora
from lib.dataset_builder import BuildOptions, build_dataset
from lib.files import staged_directory
from lib.text_data import SourceFile
from lib.token_shards import DatasetManifest
from lib.tokenizer import load_tokenizer
from ml_service.common.bundle import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Lineage,
    Manifest,
    Precision,
    load_architecture,
    verify_files,
)
from ml_service.common.settings import PROJECT, Settings
from ml_service.inference.live import open_live_model
from ml_service.pipeline.layout import START
from ml_service.training.plan import TrainingPlan
from ml_service.utils.telemetry import Telemetry

LOCK_FILE = PROJECT / "requirements.lock"


@dataclass(frozen=True)
class Sources:
    """Where text comes from; any number of them together."""

    stdlib: bool = True
    packages: bool = False
    folders: tuple[Path, ...] = ()
    hub: tuple[str, ...] = ()
    """`NAME` or `NAME:CONFIG` of data sets on the hub."""
    held_out: tuple[Path, ...] = ()
    """Folders for validation only; with them the others are for training only."""
    parts: tuple[SourceFile, ...] = ()
    """Files whose source and split are decided already."""
    packages_share: float = 1.0

    def files(self) -> Iterator[SourceFile]:
        """All files, source by source. Raises FileNotFoundError in words where a folder is missing."""
        yield from self.parts
        for file in self._trained_on():
            yield replace(file, split="train") if self.held_out else file
        for path in self.held_out:
            yield from (replace(file, split="validation") for file in corpora.folder(path))

    def _trained_on(self) -> Iterator[SourceFile]:
        if self.stdlib:
            yield from corpora.standard_library()
        if self.packages:
            yield from corpora.pinned_packages(LOCK_FILE, self.packages_share)
        for path in self.folders:
            yield from corpora.folder(path)
        for wanted in self.hub:
            name, _, config = wanted.partition(":")
            yield from corpora.hub_dataset(name, config or None)

    def __post_init__(self) -> None:
        own = ["stdlib"] * self.stdlib + ["packages"] * self.packages
        names = Counter([*own, *(path.stem for path in self.folders), *self.hub])
        names |= Counter(path.stem for path in self.held_out)
        names.update({part.source for part in self.parts})
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two sources are called {twice[0]!r}: leave one out, or rename its folder")


def extract_data(
    sources: Sources,
    output: Path,
    vocabulary_size: int = 8192,
    validation_share: float = 0.05,
    tokenizer: Path | None = None,
) -> DatasetManifest:
    """Read the sources into a data set of Parquet shards and packed tokens, with a bar for each phase."""
    with _PhaseBars() as bars:
        options = BuildOptions(
            vocabulary_size=vocabulary_size,
            validation_share=validation_share,
            tokenizer=load_tokenizer(tokenizer) if tokenizer else None,
            report=bars.show,
        )
        return build_dataset(sources.files, output, options)


def train_model(plan: TrainingPlan) -> Path | None:
    """Train as planned, or go on where the run was interrupted; returns the directory of the trained model.

    Under `torchrun` every process calls it; None for all but the first.
    """
    from lib.distributed import is_first, process_group  # torch stays out of other verbs
    from ml_service.training.workflow import build_training_artifacts, train

    with process_group(plan.strategy):
        if plan.start_from is not None and (plan.start_from / MANIFEST_FILE).is_file():
            plan = plan.model_copy(update={"start_from": _opened_once(plan.start_from, plan.run.parent / START)})
        model = train(build_training_artifacts(plan))
    return model if is_first() else None


def _opened_once(bundle: Path, checkpoint: Path) -> Path:
    """The bundle as a checkpoint, made by the first process; the others wait."""
    from lib.distributed import agree, is_first

    if is_first() and not checkpoint.is_dir():
        open_checkpoint(bundle, checkpoint)
    agree(0.0)
    return checkpoint


def export_model(
    run: Path, output: Path, precision: Precision, licence: str = "MIT", lineage: Lineage | None = None
) -> Manifest:
    """Export a finished run to a bundle that has proved itself in the serving runtime before it appears."""
    from ml_service.training.export import export_bundle  # torch stays out of other verbs

    return export_bundle(run, output, precision, PROJECT, verify_bundle, licence, lineage or Lineage())


def open_checkpoint(bundle: Path, output: Path) -> Path:
    """A bundle's weights, as its graph stores them, as the checkpoint with which a training may begin.

    `output` appears complete or not at all. Raises BundleRefused in words, FileExistsError where it is in use.
    """
    from ml_service.inference.torch_session import load_model  # torch stays out of other verbs

    verify_files(bundle)
    with staged_directory(output) as directory:
        load_model(bundle, load_architecture(bundle)).save_pretrained(directory)
        shutil.copyfile(bundle / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    return output


def import_checkpoint(checkpoint: str | Path, output: Path, precision: Precision, licence: str = "unknown") -> Manifest:
    """Make a bundle of a transformers checkpoint, in a directory or on the hub, proved before it appears."""
    from ml_service.training.export import import_bundle  # torch stays out of other verbs

    return import_bundle(checkpoint, output, precision, PROJECT, verify_bundle, licence)


def verify_bundle(bundle: Path) -> None:
    """Files, metadata and golden sample, as at every load. Raises BundleRefused in words."""
    settings = Settings(slots=1, runtime="torch" if load_architecture(bundle).without_graph else "onnx")
    open_live_model(bundle, settings, Telemetry()).engine.stop()


class _PhaseBars:
    """One bar after the other, made when a phase first reports."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._phase = ""

    def __enter__(self) -> _PhaseBars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, phase: str, done: int) -> None:
        if self._bar is None or phase != self._phase:
            self.__exit__()
            self._phase = phase
            interval = 0.2 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(desc=phase, unit=" documents", mininterval=interval)
        self._bar.update(done - self._bar.n)
